"""Tokens shared out among processes: what two draw together is what one draws, and what cannot be shared out is refused with the reason."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import assert_near, matched, tiny
from ditzoo_runtime.tokens import shared, shares_of
from runs import launched
from safetensors.torch import load_file

from ditzoo.assemble import build
from ditzoo.errors import SamplingError, SpecError

TOGETHER = str(Path(__file__).with_name("together.py"))


def test_two_processes_draw_together_what_one_draws(tmp_path):
    alone = subprocess.run([sys.executable, TOGETHER, tmp_path / "one", "none"], check=True, capture_output=True, text=True)
    assert "by-tokens" not in alone.stdout
    several = launched(2)[: -len(["-m", "ditzoo"])]
    told = subprocess.run([*several, TOGETHER, tmp_path / "two", "by-tokens"], check=True, capture_output=True, text=True).stdout
    one, two = load_file(tmp_path / "one"), load_file(tmp_path / "two")
    for name, drawn in two.items():
        assert_near(drawn, one[name])
    made = {tuple(name.split()) for name in two}
    conditionings = ("adaln", "adaln-zero", "adaln-single", "cross-attention", "in-context")
    assert made >= {("video-dit", kind, "label", pattern, "ab2") for kind in conditionings for pattern in ("joint", "factorised")}
    assert made >= {("video-dit", kind, "text-tokens", "windowed", "ddim") for kind in ("adaln-zero", "cross-attention", "in-context")}
    assert ("video-dit", "adaln-zero", "label", "joint", "early-exit") in made
    assert {name.split()[1] for name in one.keys() - two.keys()} == {"joint-attention", "dydit"}
    assert "shares out tokens of blocks that say `tokens_apart` and are not compiled, and MMDiT has none (JointBlock)" in told


def test_the_command_line_draws_together_and_one_process_writes(tmp_path):
    words = [
        "sample",
        "video-dit-s-2",
        "--random-weights",
        "--set",
        "sampling.steps=1",
        "--set",
        "guidance.scale=1",
        "--set",
        "prompt=none",
    ]
    words += ["--num-frames", "2", "--height", "32", "--width", "32", "--set", "codec={kind='pixels', channels=4}", "-n", "1"]
    out = tmp_path / "clips"
    told = subprocess.run(
        [*launched(2), *words, "--runtime", "by-tokens", "--out", str(out), "--set", "backbone.depth=1"], capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout.count("1 samples and") == 1
    assert (out / "samples.json").is_file()


def test_shares_are_as_even_as_may_be():
    assert shares_of(10, 4) == (2, 3, 2, 3)
    assert shares_of(3, 4) == (0, 1, 1, 1)


def test_what_cannot_be_shared_out_is_refused(zoo):
    with pytest.raises(SamplingError, match="2 heads of attention cannot be shared out evenly among 3 processes; start 1, 2 of them"):
        shared(build(zoo.model(tiny())).backbone, 3)
    joint = matched(
        zoo,
        backbone={"kind": "mmdit"} | zoo.kinds["backbone"]["mmdit"].examples()[""],
        conditioning={"kind": "joint-attention"},
        settings=[],
    )
    with pytest.raises(SamplingError, match="MMDiT has none .JointBlock.; take another runtime"):
        shared(build(joint).backbone, 2)
    for inner in ("auto", {"kind": "by-rows", "inner": "fused"}, "by-tokens"):
        with pytest.raises(SpecError, match="may share rows out among threads"):
            zoo.model(tiny(runtime={"kind": "by-tokens", "inner": inner}))


def test_one_process_runs_what_its_inner_runtime_prepares(zoo):
    model = build(zoo.model(tiny()))
    runtime = zoo.part("runtime", "by-tokens").build()
    assert runtime.told == "fused, by tokens"
    with torch.no_grad():
        assert type(runtime.prepare(model.backbone)) is type(model.backbone)
