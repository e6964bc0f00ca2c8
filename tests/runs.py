"""Training runs in processes of their own, for tests that kill, resume and compare them."""

from __future__ import annotations

import contextlib
import csv
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

# rows of the log that do not end where checkpoints do; and some steps that are left out
SEAMS = ["length.steps=60", "output.log_every=7", "output.checkpoint_every=5", "output.keep=20"]
SKIPS = [*SEAMS, "optimizer.skip_above=0.33", "optimizer.max_skipped=20"]


def launched(processes: int) -> list[str]:
    """Python, or several under accelerate; `--multi_gpu` is its word for several processes, on CPUs too."""
    words = "--multi_gpu --main_process_port 0 --num_machines 1 --mixed_precision no --dynamo_backend no --num_processes"
    several = ["-m", "accelerate.commands.launch", *words.split(), str(processes)]
    return [sys.executable, *(several if processes > 1 else []), "-m", "ditzoo"]


def command(recipe, out, *settings, processes=1):
    words = ["train", str(recipe), "--out", str(out), "--resume", "--quiet"]
    return [*launched(processes), *words, *(word for setting in settings for word in ("--set", setting))]


def deciding(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open() as file:
        return [{name: row[name] for name in ("step", "epoch", "loss", "lr", "grad_norm", "skipped")} for row in csv.DictReader(file)]


def same(a: Path, b: Path) -> None:
    for file in ("model/model.safetensors", "checkpoint-60/model.safetensors", "checkpoint-60/ema.safetensors"):
        ours, theirs = load_file(a / file), load_file(b / file)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), file
    assert deciding(a) == deciding(b)


def same_end(a: Path, b: Path) -> None:
    """Runs that add up in another order end alike."""
    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (a, b))
    for name, tensor in theirs.items():
        if name.endswith(".k.bias"):  # softmax does not see it: its gradient is rounding alone, which AdamW makes large
            continue
        assert (ours[name] - tensor).abs().max() < 2e-3 * max(1e-2, float(tensor.abs().max())), name
    ours, theirs = ([float(row["loss"]) for row in deciding(folder)] for folder in (a, b))
    assert ours == pytest.approx(theirs, rel=1e-3)


def kill(running: subprocess.Popen[bytes]) -> None:
    """Kill a run with SIGKILL, all of its processes: a launcher starts each in a session of its own, and they outlive it."""
    family = [*psutil.Process(running.pid).children(recursive=True), psutil.Process(running.pid)] if running.poll() is None else []
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=30)
    running.communicate()


def started(recipe, out, processes, after, settings=SKIPS):
    """Start or resume a run and return it once so many checkpoints are there."""
    running = subprocess.Popen(
        command(recipe, out, *settings, processes=processes),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    while len(list(out.glob("checkpoint-*/state.json"))) < after and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    return running
