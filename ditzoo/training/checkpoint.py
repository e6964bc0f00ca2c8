"""Training checkpoints: folders `checkpoint-<step>`, written aside and renamed, the oldest removed last."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

from ditzoo.checkpoints import open_file
from ditzoo.errors import CheckpointError, OutputError
from ditzoo.files import replacing_folder
from ditzoo.training.ema import EMA
from ditzoo.training.recipe import BESIDE, Recipe, flat
from ditzoo.weights import save_weights

NAME = re.compile(r"checkpoint-(\d+)")


class Window(NamedTuple):
    """What has come since the last row of the log: the losses of each process, and how many steps were left out."""

    losses: Sequence[Sequence[float]] = ()
    skipped: int = 0


def checkpoints(out: Path) -> list[Path]:
    """Return the whole checkpoints in a run's folder, oldest first."""
    found = [path for path in out.glob("checkpoint-*") if NAME.fullmatch(path.name) and (path / "state.json").is_file()]
    return sorted(found, key=_step)


def _step(path: Path) -> int:
    match = NAME.fullmatch(path.name)
    assert match
    return int(match[1])


def save_checkpoint(out: Path, step: int, recipe: Recipe, module: nn.Module, ema: EMA, optimizer: Optimizer, window: Window) -> Path:
    """Write everything that the rest of the run depends on; the random numbers depend on (seed, step) alone.

    `window` is what the log's next row is made of: with it a resumed log goes on without a seam.
    """
    path = out / f"checkpoint-{step}"
    for left in out.glob(".checkpoint-*.tmp"):  # of a run that was killed while it wrote
        shutil.rmtree(left, ignore_errors=True)
    if path.exists():  # without a state.json, or it would have been resumed from
        shutil.rmtree(path)
    try:
        with replacing_folder(path) as aside:
            save_weights(module, aside / "model.safetensors")
            save_weights(ema.state(), aside / "ema.safetensors")
            torch.save(optimizer.state_dict(), aside / "optimizer.pt")
            state = {"step": step, "recipe": json.loads(recipe.model_dump_json()), "window": window._asdict()}
            (aside / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    except OSError as error:
        last = checkpoints(out)[-1:]
        raise OutputError(f"cannot write {path}: {error}; the last whole checkpoint is {last[0] if last else 'none'}") from error
    for old in checkpoints(out)[: -recipe.output.keep]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def load_checkpoint(path: Path, recipe: Recipe, module: nn.Module, ema: EMA, optimizer: Optimizer) -> tuple[int, Window]:
    """Load a checkpoint into what is given; return its step and loss window. Refuse one that another recipe made."""
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        optimizer_state = torch.load(path / "optimizer.pt", weights_only=True, map_location="cpu")
    except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"cannot read checkpoint {path}: {error}; remove the folder to resume from an earlier one") from error
    theirs, ours = {path: leaf for path, leaf in flat(state["recipe"]).items() if not path.startswith(BESIDE)}, recipe.deciding()
    differing = [name for name in sorted(theirs.keys() | ours.keys()) if theirs.get(name) != ours.get(name)]
    if differing:
        told = ", ".join(f"{name} ({theirs.get(name)!r} there, {ours.get(name)!r} here)" for name in differing[:5])
        raise CheckpointError(f"{path} was made by another recipe: {told}; set these back, or train into another folder")
    module.load_state_dict(open_file(path / "model.safetensors").tensors)
    ema.load(open_file(path / "ema.safetensors").tensors)
    optimizer.load_state_dict(optimizer_state)
    return int(state["step"]), Window(**state["window"]) if "window" in state else Window()
