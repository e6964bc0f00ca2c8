"""Latents that are coded once: the same training, a cut that goes on, and the refusal of what another codec made."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
import torch
from conftest import run_ditzoo
from runs import launched
from safetensors.torch import load_file

from ditzoo.errors import DataError, DitzooError, OutputError
from ditzoo.training import latents as writing
from ditzoo.training.latents import write_latents
from ditzoo.training.loop import train
from ditzoo.training.recipe import read_recipe

SCALED = ["model.codec.scale=0.5", "model.codec.shift=0.1", "length.steps=8", "optimizer.warmup=0"]


@pytest.fixture
def declared(recipe, zoo, monkeypatch):
    monkeypatch.setattr(writing, "SHARD", 20)  # 64 pictures: four shards, the last one short
    return read_recipe(str(recipe), zoo, SCALED)


def from_latents(folder, *more):
    return [*SCALED, "data.kind=latents", f'data.folder="{folder}"', *more]


def test_training_from_latents_is_training_from_pictures(recipe, declared, zoo, tmp_path):
    meta = write_latents(declared, tmp_path / "latents")
    assert (meta["count"], len(meta["shards"])) == (64, 4)
    train(declared, tmp_path / "pictures", quiet=True)
    train(read_recipe(str(recipe), zoo, from_latents(tmp_path / "latents", "data.verify=true")), tmp_path / "coded", quiet=True)
    a, b = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("pictures", "coded"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_mirrored_pictures_are_further_items(declared, zoo, tmp_path):
    write_latents(declared, tmp_path, flip=True)
    data = zoo.part("dataset", {"kind": "latents", "folder": str(tmp_path), "flip": True}).build()
    assert len(data) == 128
    assert torch.equal(data[64 + 37]["latents"], data[37]["latents"].flip(-1))
    assert data[64 + 37]["item"] == data[37]["item"] == 37 % 10
    assert len(zoo.part("dataset", {"kind": "latents", "folder": str(tmp_path)}).build()) == 64


def test_cut_off_it_goes_on_and_two_processes_write_the_same(recipe, declared, tmp_path):
    whole = write_latents(declared, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for name in ("00000020.safetensors", "latents.json"):
        (tmp_path / "cut" / name).unlink()
    (tmp_path / "cut" / "00000040.safetensors").write_bytes(b"half")
    kept = (tmp_path / "cut" / "00000000.safetensors").stat().st_mtime_ns
    assert write_latents(declared, tmp_path / "cut") == whole
    assert (tmp_path / "cut" / "00000000.safetensors").stat().st_mtime_ns == kept
    words = [
        "latents",
        str(recipe),
        "--out",
        str(tmp_path / "two"),
        *(word for setting in SCALED for word in ("--set", setting)),
    ]
    done = subprocess.run([*launched(2), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "two" / "latents.json").read_text())
    assert made["count"] == 64
    (shard,) = made["shards"]
    found = load_file(tmp_path / "two" / shard)["latents"]
    parts = [load_file(tmp_path / "whole" / name)["latents"] for name in sorted(whole["shards"])]
    assert torch.equal(found, torch.cat(parts))


def test_what_does_not_fit_is_refused(recipe, declared, zoo, tmp_path):
    write_latents(declared, tmp_path / "latents")
    with pytest.raises(DitzooError, match=r"was coded by another codec: scale \(0.5 there, 0.25 here\); write the latents again"):
        read_recipe(str(recipe), zoo, from_latents(tmp_path / "latents", "model.codec.scale=0.25"))
    with pytest.raises(DitzooError, match="was written without mirrored pictures; write it with --flip"):
        read_recipe(str(recipe), zoo, from_latents(tmp_path / "latents", "data.flip=true"))
    with pytest.raises(DitzooError, match=r"no .*latents.json: the folder holds no latents, or not all of them; run 'ditzoo latents"):
        read_recipe(str(recipe), zoo, from_latents(tmp_path / "none"))
    with pytest.raises(OutputError, match=r"holds other latents: flip \(False there, True here\); choose another --out"):
        write_latents(declared, tmp_path / "latents", flip=True)
    data = zoo.part("dataset", {"kind": "latents", "folder": str(tmp_path / "latents"), "verify": True})
    shard = tmp_path / "latents" / "00000020.safetensors"
    raw = shard.read_bytes()
    shard.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(DataError, match="are not what was written: 00000020.safetensors; remove these and write the latents again"):
        data.build()
    shard.unlink()
    with pytest.raises(DataError, match="lacks 1 of its 4 shards: 00000020.safetensors"):
        data.build()


def test_the_command_says_what_comes_next(recipe, tmp_path):
    done = run_ditzoo("latents", recipe, "--out", tmp_path / "latents", "--dtype", "float16")
    assert done.returncode == 0, done.stderr
    assert "64 latents in 1 shards" in done.stdout
    assert "--set data.kind=latents" in done.stderr
    assert load_file(tmp_path / "latents" / "00000000.safetensors")["latents"].dtype == torch.float16
