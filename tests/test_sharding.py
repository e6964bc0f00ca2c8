"""FSDP2 on two processes: it trains as one process does, and every kind of checkpoint goes on in every kind of run."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import refused
from runs import SEAMS, command, deciding, kill, same_end, started
from safetensors.torch import load_file

WHOLE = [*SEAMS, "length.accumulate=2", "output.sample_every=60"]
SHARDED = [*WHOLE, "length.shard=true"]


@pytest.fixture(scope="module")
def runs(recipe, tmp_path_factory):
    """One process; and two that share everything out."""
    folders = {}
    for name, settings, processes in (("one", WHOLE, 1), ("shared", SHARDED, 2)):
        folders[name] = tmp_path_factory.mktemp(name)
        subprocess.run(command(recipe, folders[name], *settings, processes=processes), check=True, capture_output=True)
    return folders


def test_shared_out_it_trains_as_one_process(runs):
    same_end(runs["shared"], runs["one"])
    assert sorted(path.name for path in (runs["shared"] / "checkpoint-60").iterdir()) == ["shards", "state.json"]
    assert not (runs["one"] / "checkpoint-60" / "shards").exists()
    assert (runs["shared"] / "samples" / "00000060.png").is_file()


@pytest.mark.parametrize(
    ("first", "processes", "then", "others"),
    [(SHARDED, 2, WHOLE, 1), (WHOLE, 1, SHARDED, 2), (SHARDED, 2, WHOLE, 2)],
    ids=["shards in one process", "one process in shards", "shards in whole copies"],
)
def test_every_checkpoint_goes_on_in_every_run(recipe, runs, tmp_path, first, processes, then, others):
    running = started(recipe, tmp_path, processes, after=5, settings=first)
    kill(running)
    subprocess.run(command(recipe, tmp_path, *then, processes=others), check=True, capture_output=True)
    same_end(tmp_path, runs["one"])


def test_killed_it_ends_as_the_unbroken_run_bit_for_bit(recipe, runs, tmp_path):
    for after in (2, 6):
        running = started(recipe, tmp_path, 2, after=after, settings=SHARDED)
        kill(running)
    subprocess.run(command(recipe, tmp_path, *SHARDED, processes=2), check=True, capture_output=True)
    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (tmp_path, runs["shared"]))
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    assert deciding(tmp_path) == deciding(runs["shared"])


class Harmful:
    def __reduce__(self):
        return os.system, ("touch harm",)


def cut(shards: Path) -> str:
    (shards / ".metadata").write_bytes((shards / ".metadata").read_bytes()[:100])
    return "pickle data was truncated"


def harmful(shards: Path) -> str:
    (shards / ".metadata").write_bytes(pickle.dumps(Harmful()))
    return "its table of contents calls posix.system, which no checkpoint of ours does"


def short(shards: Path) -> str:
    for file in shards.glob("*.distcp"):
        file.write_bytes(file.read_bytes()[:1000])
    return "process 0 met EOFError (a file of it ends too early)"


@pytest.mark.parametrize("damage", [cut, harmful, short])
def test_damaged_shards_are_told(recipe, runs, tmp_path, damage, capsys, monkeypatch):
    shutil.copytree(runs["shared"] / "checkpoint-55", tmp_path / "checkpoint-55")
    told = damage(tmp_path / "checkpoint-55" / "shards")
    settings = [word for setting in WHOLE for word in ("--set", setting)]
    message = refused(capsys, monkeypatch, "train", recipe, "--out", tmp_path, "--resume", "--quiet", *settings)
    assert f"cannot read checkpoint {tmp_path / 'checkpoint-55'}" in message
    assert told in message
    assert message.endswith("remove the folder to resume from an earlier one")
    assert not Path("harm").exists()
