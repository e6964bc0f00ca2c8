"""Checkpoints of a run: folders that appear whole. Those of a sharded run are in shards too, and any run reads either kind."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.optim import Optimizer

from ditzoo.checkpoints import open_file
from ditzoo.errors import CheckpointError, OutputError
from ditzoo.files import replacing_folder
from ditzoo.training.ema import EMA
from ditzoo.training.recipe import BESIDE, Recipe, flat
from ditzoo.training.sharding import is_sharded
from ditzoo.training.shards import read_shards, write_shards
from ditzoo.training.state import GROUPS, Groups, put_state, read_state
from ditzoo.weights import save_weights

NAME = re.compile(r"checkpoint-(\d+)")
SHARDS = "shards"  # the folder of torch.distributed.checkpoint's files


class Window(NamedTuple):
    """What has come since the last row of the log: the losses of each process, and how many steps were left out."""

    losses: Sequence[Sequence[Sequence[float]]] = ()
    skipped: int = 0


def checkpoints(out: Path) -> list[Path]:
    """Return the whole checkpoints in a run's folder, oldest first."""
    found = [path for path in out.glob("checkpoint-*") if NAME.fullmatch(path.name) and (path / "state.json").is_file()]
    return sorted(found, key=_step)


def _step(path: Path) -> int:
    match = NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def save_checkpoint(
    out: Path, step: int, recipe: Recipe, trainee: nn.Module, ema: EMA, optimizer: Optimizer, window: Window, accelerator: Accelerator
) -> None:
    """Write everything that the rest of the run depends on; the random numbers depend on (seed, step) alone. All processes call it.

    `window` is what the log's next row is made of: with it a resumed log goes on without a seam.
    """
    groups = read_state(trainee, ema, optimizer)
    state = {"step": step, "recipe": json.loads(recipe.model_dump_json()), "window": window._asdict()}
    if is_sharded(trainee):
        _write_shards(out, state, groups, accelerator)
    elif accelerator.is_main_process:
        try:
            with replacing_folder(_cleared(out, step)) as aside:
                for group, tensors in groups.items():
                    save_weights(tensors, aside / f"{group}.safetensors")
                _write_state(aside, state)
        except (OSError, OutputError) as error:
            raise _unwritten(out, step, error) from error
    if accelerator.is_main_process:
        for old in checkpoints(out)[: -recipe.output.keep]:
            shutil.rmtree(old, ignore_errors=True)


def _cleared(out: Path, step: int) -> Path:
    """Remove what a run that was killed while it wrote has left, and return the folder to write."""
    for left in out.glob(".checkpoint-*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    path = out / f"checkpoint-{step}"
    shutil.rmtree(path, ignore_errors=True)
    return path


def _write_state(folder: Path, state: dict[str, Any]) -> None:
    (folder / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")


def _write_shards(out: Path, state: dict[str, Any], groups: Groups, accelerator: Accelerator) -> None:
    """Every process writes its shares into a folder beside, which the main one renames when all have."""
    path = out / f"checkpoint-{state['step']}"
    aside = out / f".{path.name}.shards.tmp"
    if accelerator.is_main_process:
        _cleared(out, state["step"])
    accelerator.wait_for_everyone()
    problem: list[Any] = [None]
    try:
        write_shards(aside / SHARDS, groups)
        if accelerator.is_main_process:
            _write_state(aside, state)
            with replacing_folder(path) as final:
                aside.replace(final)
    except OSError as error:
        problem = [error]
    broadcast_object_list(problem)  # an error of the renaming is the main process' alone; those of writing come to all
    if problem[0] is not None:
        shutil.rmtree(aside, ignore_errors=True)
        raise _unwritten(out, state["step"], problem[0]) from problem[0]


def _unwritten(out: Path, step: int, error: BaseException) -> OutputError:
    last = checkpoints(out)[-1:]
    return OutputError(f"cannot write {out / f'checkpoint-{step}'}: {error}; the last whole checkpoint is {last[0] if last else 'none'}")


def load_checkpoint(path: Path, recipe: Recipe, trainee: nn.Module, ema: EMA, optimizer: Optimizer) -> tuple[int, Window]:
    """Load a checkpoint into what is given; return its step and window. Refuse one that another recipe made. All processes call it."""
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        step, window = int(state["step"]), Window(**state["window"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"cannot read checkpoint {path}: {error}; remove the folder to resume from an earlier one") from error
    theirs, ours = {path: leaf for path, leaf in flat(state["recipe"]).items() if not path.startswith(BESIDE)}, recipe.deciding()
    differing = [name for name in sorted(theirs.keys() | ours.keys()) if theirs.get(name) != ours.get(name)]
    if differing:
        told = ", ".join(f"{name} ({theirs.get(name)!r} there, {ours.get(name)!r} here)" for name in differing[:5])
        raise CheckpointError(f"{path} was made by another recipe: {told}; set these back, or train into another folder")
    put_state(_groups(path, trainee, ema), trainee, ema, optimizer, str(path))
    return step, window


def _groups(path: Path, trainee: nn.Module, ema: EMA) -> Groups:
    if not (path / SHARDS).is_dir():
        return {group: open_file(path / f"{group}.safetensors").tensors for group in GROUPS}
    try:
        return read_shards(path / SHARDS, trainee, ema)
    except (OSError, KeyError, ValueError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"cannot read checkpoint {path}: {error}; remove the folder to resume from an earlier one") from error
