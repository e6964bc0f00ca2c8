"""Weights: safetensors only, strict, mapped and assigned without a copy; written aside and renamed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ditzoo.errors import CheckpointError, OutputError, listed
from ditzoo.files import replacing


def save_weights(
    module_or_tensors: nn.Module | Mapping[str, Tensor],
    path: Path,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a state dict as safetensors, floating tensors cast to `dtype`; the file appears whole or not at all."""
    state = module_or_tensors.state_dict() if isinstance(module_or_tensors, nn.Module) else module_or_tensors
    tensors = {
        name: (tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor).contiguous().cpu()
        for name, tensor in state.items()
    }
    try:
        with replacing(path) as aside:
            save_file(tensors, aside, metadata={"format": "pt"})
    except (OSError, SafetensorError) as error:
        raise OutputError(f"cannot write weights to {path}: {error}") from error


def read_weights(path: Path, *, sha256: str | None = None) -> dict[str, Tensor]:
    """Map a safetensors file; raise `CheckpointError` that says what is wrong with the file."""
    if not path.is_file():
        raise CheckpointError(f"no weights file {path}")
    if sha256 is not None and (found := file_sha256(path)) != sha256:
        raise CheckpointError(f"{path}: sha256 is {found}, and the spec says {sha256}; fetch the file again")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        size, head = path.stat().st_size, path.open("rb").read(64)
        if head.startswith(b"version https://git-lfs"):
            cause = "it is a git-lfs pointer, not the file; run 'git lfs pull'"
        elif head.lstrip()[:1] == b"<":
            cause = "it is a web page, not weights; download the raw file"
        elif head.startswith((b"PK\x03\x04", b"\x80")):
            cause = "it is a PyTorch pickle, which ditzoo does not run; convert it to safetensors"
        else:
            cause = f"it is truncated or no safetensors file ({size} bytes; {error}); fetch it again"
        raise CheckpointError(f"cannot read {path}: {cause}") from error


def load_weights(
    module: nn.Module, tensors: Mapping[str, Tensor], *, source: str, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> None:
    """Assign tensors to a module built on meta. Every key must be there, no other, each in its shape.

    With neither a cast nor a move the parameters are the mapped file itself: nothing is copied.
    """
    wanted = module.state_dict()
    missing, unexpected = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    misfits = [
        f"{name} is {list(tensors[name].shape)}, model has {list(wanted[name].shape)}"
        for name in sorted(wanted.keys() & tensors.keys())
        if tensors[name].shape != wanted[name].shape
    ]
    faults = [
        f"{len(found)} {label}: {listed(found, limit=4)}"
        for label, found in (("missing", missing), ("unexpected", unexpected), ("of another shape", misfits))
        if found
    ]
    if faults:
        raise CheckpointError(f"{source} does not hold this model's weights: {'; '.join(faults)}")
    state = {name: tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None) for name, tensor in tensors.items()}
    module.load_state_dict(state, assign=True)
    left = [name for name, value in (*module.named_parameters(), *module.named_buffers()) if value.is_meta]
    if left:
        raise CheckpointError(f"{source}: nothing filled {listed(left)}; the backbone must compute such buffers when called")


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
