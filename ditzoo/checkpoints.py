"""Opening checkpoints from outside: safetensors, and pickles with `weights_only`, mapped where the format allows it.

Nothing in a file is run. Whatever is wrong with one is told in a sentence that names the file, what it is and the way out.
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ditzoo.errors import CheckpointError, listed, suggest
from ditzoo.weight_files import WeightFiles

WRAPPERS = ("ema", "model_ema", "state_dict_ema", "ema_state_dict", "state_dict", "model_state_dict", "model", "module")
PREFIXES = ("module.", "_orig_mod.")


@dataclass
class Checkpoint:
    """Tensors by name. `mapped` says that they are pages of the files and no memory of our own; `notes` what was unwrapped."""

    tensors: dict[str, Tensor]
    source: str
    mapped: bool = True
    notes: list[str] = field(default_factory=list)


def open_checkpoint(files: WeightFiles, *, entry: str | None = None) -> Checkpoint:
    """Open all files of a checkpoint as one; with an index, each key must be in the file that it names."""
    found = Checkpoint({}, str(files))
    for name, path in zip(files.names, files.fetch(), strict=True):
        part = open_file(path, entry=entry)
        if files.where is not None:
            promised = {key for key, file in files.where.items() if file == name}
            if promised != part.tensors.keys():
                absent, extra = sorted(promised - part.tensors.keys()), sorted(part.tensors.keys() - promised)
                raise CheckpointError(
                    f"{files.index} of {files.place} lies about {name}: "
                    + "; ".join(
                        f"{label} {listed(keys, limit=4)}"
                        for label, keys in (("not in it:", absent), ("in it and not told:", extra))
                        if keys
                    )
                    + "; the index belongs to other weights, so fetch both again"
                )
        found.tensors |= part.tensors
        found.mapped &= part.mapped
        found.notes += [note for note in part.notes if note not in found.notes]
    return found


def open_file(path: Path, *, entry: str | None = None) -> Checkpoint:
    """Open one file of tensors; raise `CheckpointError` that says what the file is where it is none."""
    try:
        with path.open("rb") as file:
            head = file.read(256)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    # a safetensors file begins with the length of its header, whose first byte may be any, and the header with a brace
    pickled = head[8:9] != b"{" and (head[:4] == b"PK\x03\x04" or head[:1] == b"\x80")
    if pickled and path.suffix == ".safetensors":
        raise CheckpointError(
            f"cannot read {path}: it is a PyTorch pickle under the name of a safetensors file; do not trust it, or rename it to .bin"
        )
    if pickled:
        return _open_pickle(path, entry, mapped=head[:1] == b"P")
    try:
        return Checkpoint(load_file(path), str(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {_what_it_is(path, head, str(error))}") from error


def _what_it_is(path: Path, head: bytes, cause: str) -> str:
    size = path.stat().st_size
    if not size:
        return "it is empty; fetch it again"
    if head.startswith(b"version https://git-lfs"):
        return "it is a git-lfs pointer, not the file; run 'git lfs pull', or fetch it again"
    if head.lstrip()[:1] == b"<":
        return "it is a web page, not weights; download the raw file"
    length = int.from_bytes(head[:8], "little")
    if path.suffix == ".safetensors" and 0 < length < 10**8 and head[8:9] == b"{":
        try:
            with path.open("rb") as file:
                file.seek(8)
                header = json.loads(file.read(length))
            end = 8 + length + max(value["data_offsets"][1] for key, value in header.items() if key != "__metadata__")
        except (ValueError, KeyError, TypeError):
            return f"its header is damaged ({cause}); fetch it again"
        if end != size:
            return (
                f"it is {'truncated' if size < end else 'too long'}: {size} bytes, and its header speaks of {end} ({cause}); fetch it again"
            )
    return f"it is neither safetensors nor a PyTorch file, or it is truncated ({size} bytes; {cause}); fetch it again"


def _open_pickle(path: Path, entry: str | None, *, mapped: bool) -> Checkpoint:
    """Read a pickle as data; only the zip format, which `torch.save` has written since 1.6, can be mapped."""
    # a Namespace is what training scripts keep beside the weights, and only data; a warning about the pickle's age helps nobody
    with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings(action="ignore"):
        try:
            data = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        except pickle.UnpicklingError as error:
            names = _forbidden(path, str(error))
            if names:
                raise CheckpointError(
                    f"cannot read {path}: it asks to run {listed(names)}, which ditzoo never does; do not trust this file, "
                    f"or have its owner publish safetensors"
                ) from error
            raise CheckpointError(f"cannot read {path}: its pickle is damaged ({_first(error)}); fetch it again") from error
        except (RuntimeError, OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, UnicodeError) as error:
            raise CheckpointError(
                f"cannot read {path}: it is truncated or no PyTorch file ({path.stat().st_size} bytes; {_first(error)}); fetch it again"
            ) from error
    notes = [f"{path.name} is a pickle, read as data alone; safetensors is the better format ('ditzoo convert')"]
    tensors = _unwrap(data, path, entry, notes)
    for prefix in PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
            notes.append(f"took the prefix '{prefix}' off every key")
    return Checkpoint(tensors, str(path), mapped, notes)


def _unwrap(data: Any, path: Path, entry: str | None, notes: list[str]) -> dict[str, Tensor]:
    """Find the state dict in what a training script saved, and say which was taken."""
    while isinstance(data, Mapping):
        if data and all(isinstance(value, Tensor) for value in data.values()):
            if entry is not None:
                raise CheckpointError(f"weights.entry is '{entry}', but {path} has no entries: it is a bare state dict; leave entry out")
            return {str(name): tensor for name, tensor in data.items()}
        inner = [str(name) for name, value in data.items() if isinstance(value, Mapping)]
        if entry is not None and entry not in inner:
            raise CheckpointError(f"{path} has no state dict '{entry}'{suggest(entry, inner)} (it holds {listed(map(str, data))})")
        taken = entry or next((name for name in WRAPPERS if name in inner), None)
        if taken is None:
            break
        others = [str(name) for name in data if name != taken]
        notes.append(
            f"took '{taken}' out of {path.name}" + (f", which also holds {listed(others)} (weights.entry chooses)" if others else "")
        )
        data, entry = data[taken], None
    what = f"a table of {listed(map(str, data), limit=6)}" if isinstance(data, Mapping) else f"a {type(data).__name__}"
    raise CheckpointError(f"{path} holds {what}, and no state dict (names to tensors); set weights.entry if one lies under another name")


def _forbidden(path: Path, message: str) -> Sequence[str]:
    """The functions and classes that a pickle names and that are not allowed, without running any."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # another format, or so damaged that it cannot be taken apart: the message is what is left
        return sorted(set(re.findall(r"GLOBAL (\S+)", message)))


def _first(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
