"""The files of a sharded checkpoint, by torch.distributed.checkpoint; read back without running what a stranger may have put there.

Its table of contents is a pickle, which could name any function: here it may name the classes that torch itself writes, and no other.
"""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from ditzoo.training.ema import EMA
from ditzoo.training.state import Groups, expected

HARMLESS = re.compile(
    r"torch\.distributed\.checkpoint\.metadata\.\w+|torch\.distributed\.checkpoint\.filesystem\._StorageInfo"
    r"|torch\.serialization\._get_layout|torch\.Size|pathlib(\._local)?\.(Pure)?(Posix|Windows)?Path|collections\.OrderedDict"
)


class _Contents(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if HARMLESS.fullmatch(f"{module}.{name}") or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"its table of contents calls {module}.{name}, which no checkpoint of ours does")


def write_shards(folder: Path, groups: Groups) -> None:
    """Write groups of tensors, each process its shares; all processes call it. Raises `OSError` in all if one cannot."""
    try:
        save(_flat(groups), checkpoint_id=str(folder))
    except CheckpointException as error:
        raise OSError(_why(error)) from error


def read_shards(folder: Path, trainee: nn.Module, ema: EMA) -> Groups:
    """Return groups as this run shares them out, whoever wrote them; all processes call it.

    Raises `OSError`, `ValueError` or `pickle.UnpicklingError` where something is missing, damaged or harmful.
    """
    with (folder / ".metadata").open("rb") as file:
        held = _Contents(file).load()
    if not hasattr(held, "state_dict_metadata"):
        raise ValueError("its table of contents is none")
    groups = expected(trainee, ema, {name: entry.size for name, entry in held.state_dict_metadata.items()})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there may be one process only
            load(_flat(groups), storage_reader=FileSystemReader(str(folder)))
    except CheckpointException as error:
        raise OSError(_why(error)) from error
    return groups


def _why(error: CheckpointException) -> str:
    """Return what the first process met; torch tells it in a traceback."""
    process, (cause, _) = next(iter(error.failures.items()))
    return f"process {process} met {type(cause).__name__} ({str(cause) or 'a file of it ends too early'})"


def _flat(groups: Groups) -> dict[str, Any]:
    return {f"{group}.{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}
