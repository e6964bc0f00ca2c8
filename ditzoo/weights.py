"""Weights of a model: filled in strictly and without a copy, saved as safetensors, whole or in shards."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ditzoo.checkpoints import Checkpoint
from ditzoo.errors import CheckpointError, OutputError, SpecError, listed
from ditzoo.files import replacing, write_text
from ditzoo.layouts import Layout, checked, to_theirs
from ditzoo.mismatch import compare, refusal
from ditzoo.model_spec import ModelSpec
from ditzoo.pages import drop

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def fill(
    module: nn.Module,
    checkpoint: Checkpoint,
    spec: ModelSpec,
    layout: Layout,
    *,
    layouts: Iterable[Layout] = (),
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> None:
    """Fill a module built on meta from a checkpoint: every key must be there, no other, each in its shape.

    With neither a cast (`dtype` None keeps the file's) nor a move the parameters are the mapped file itself, nothing is copied.
    Else tensors pass one at a time, and the pages of each are given back.
    """
    own = module.state_dict()
    rows = checked(layout, layout.rows(spec, own), own)
    expected = to_theirs(rows, own)
    if faults := compare(expected, checkpoint.tensors):
        raise refusal(checkpoint.source, faults, checkpoint.tensors, layout, spec, layouts)
    state: dict[str, Tensor] = {}
    for row in rows:
        theirs = [checkpoint.tensors[name] for name in row.theirs]
        ours = dict(zip(row.ours, row.read(theirs), strict=True))
        state |= {name: tensor.to(device, dtype if tensor.is_floating_point() else None) for name, tensor in ours.items()}
        if checkpoint.mapped:  # what was looked at leaves memory; a parameter that is the file itself is read again when used
            for tensor in theirs:
                drop(tensor)
    module.load_state_dict(state, assign=True)
    left = [name for name, value in (*module.named_parameters(), *module.named_buffers()) if value.is_meta]
    if left:
        raise CheckpointError(f"{checkpoint.source}: nothing filled {listed(left)}; the backbone must compute such buffers when called")


def save_weights(
    module_or_tensors: nn.Module | Mapping[str, Tensor],
    path: Path,
    *,
    dtype: torch.dtype | None = None,
    max_shard_size: int | str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write a state dict as safetensors, floating tensors cast to `dtype`, and return the files written. `metadata` goes into headers.

    Above `max_shard_size` (bytes, or as `"5GB"`) it goes into `NAME-00001-of-0000N.safetensors` and an index. All files are written
    aside and renamed together, so that a save cut short leaves the old one; stale files of an older save are removed.
    """
    state = module_or_tensors.state_dict() if isinstance(module_or_tensors, nn.Module) else dict(module_or_tensors)
    cast = {name: dtype if dtype is not None and t.is_floating_point() else t.dtype for name, t in state.items()}
    sizes = {name: t.numel() * cast[name].itemsize for name, t in state.items()}
    shards = shared_out(sizes, size_in_bytes(max_shard_size))
    names = (
        [path.name] if len(shards) == 1 else [f"{path.stem}-{i:05d}-of-{len(shards):05d}{path.suffix}" for i in range(1, len(shards) + 1)]
    )
    index = path.with_name(f"{path.name}.index.json")
    try:
        with ExitStack() as renames:
            for name, keys in zip(names, shards, strict=True):
                aside = renames.enter_context(replacing(path.with_name(name)))
                held = {key: state[key].to(cast[key]).contiguous().cpu() for key in keys}
                save_file(_apart(held), aside, metadata={"format": "pt"} | dict(metadata or {}))
    except (OSError, SafetensorError) as error:
        raise OutputError(f"cannot write weights to {path}: {error}") from error
    if len(shards) > 1:
        table = {key: name for name, keys in zip(names, shards, strict=True) for key in keys}
        write_text(index, json.dumps({"metadata": {"total_size": sum(sizes.values())}, "weight_map": table}, indent=2) + "\n")
    else:
        index.unlink(missing_ok=True)
    stale = re.compile(rf"{re.escape(path.stem)}(-\d{{5}}-of-\d{{5}})?{re.escape(path.suffix)}")
    for file in path.parent.iterdir():
        if stale.fullmatch(file.name) and file.name not in names:
            file.unlink()
    return [path.with_name(name) for name in names] + ([index] if len(shards) > 1 else [])


def shared_out(sizes: Mapping[str, int], most: int | None) -> list[list[str]]:
    """Share names out over shards in their order, each shard at most `most` bytes unless one tensor is larger."""
    shards: list[list[str]] = [[]]
    held = 0
    for name, size in sizes.items():
        if most is not None and shards[-1] and held + size > most:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += size
    return shards


def size_in_bytes(size: int | str | None) -> int | None:
    """Read a size as people write it: 5000000, "5GB", "300MiB"."""
    if size is None or isinstance(size, int):
        found = size
    else:
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", size)
        factor = UNITS.get(match.group(2).upper()) if match else None
        found = int(float(match.group(1)) * factor) if match and factor else int(size) if size.strip().isdigit() else 0
    if found is not None and found < 1:
        raise SpecError(f"max_shard_size is {size!r}; write bytes, or a size like '5GB' or '300MiB'")
    return found


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give each tensor that stands under two names memory of its own: the format has no aliases."""
    seen: set[int] = set()
    for name, tensor in tensors.items():
        if tensor.data_ptr() in seen:
            tensors[name] = tensor.clone()
        seen.add(tensor.data_ptr())
    return tensors
