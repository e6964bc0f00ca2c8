"""The contracts carry parts that the built-in plugins have not: two streams, video, and a package from outside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import assert_near, install, run_ditzoo, tiny, wake

from ditzoo.assemble import build
from ditzoo.denoiser import Branch, Denoiser
from ditzoo.drawing import draw
from ditzoo.errors import SpecError
from ditzoo.places import Folder
from ditzoo.sources import Found

PACKAGE = Path(__file__).parent / "stranger_package"
TWO_STREAM = {
    "backbone": {"kind": "toy-two-stream", "width": 16, "depth": 4, "in_channels": 3, "input_size": [8, 8]},
    "conditioning": {"kind": "toy-joint"},
    "prompt": {"kind": "toy-words"},
    "guidance": {"scale": 2.0},
}
VIDEO = {"backbone": {"kind": "toy-video", "width": 24, "depth": 4, "in_channels": 3, "input_size": [3, 8, 8]}}


def test_text_and_image_in_one_transformer(strangers_zoo):
    model = wake(build(strangers_zoo.model(tiny(**TWO_STREAM, schedule={"kind": "flow"})))).requires_grad_(False)
    drawn = model.sample(prompt=["red round", "blue"], seed=1, output_type="latent").images
    assert drawn.shape == (2, 3, 8, 8)
    other = model.sample(prompt=["red round", "green"], seed=1, output_type="latent").images
    assert_near(other[0], drawn[0])  # prompts of other lengths beside it change nothing
    assert (other[1] - drawn[1]).abs().max() > 1e-4
    x, t, cond = torch.randn(2, 3, 8, 8), torch.tensor([5.0, 80.0]), model.prompt.encode([(0, 3), (2,)])
    early = model.backbone.begin(x, t, cond)
    late = model.backbone.run(early, 0, 4)
    assert torch.equal(model.backbone.head(model.backbone.run(model.backbone.run(early, 0, 1), 1, 4)), model.backbone(x, t, cond))
    assert (late.context - early.context).abs().max() > 1e-4  # the text's tokens change too,
    back = early + (late - early)
    torch.testing.assert_close(back.context, late.context)  # and belong to the residual
    torch.testing.assert_close(back.tokens, late.tokens)
    assert early.rows(slice(0, 1)).context.shape[0] == early.rows(slice(0, 1)).cond.mask.shape[0] == 1


def test_what_a_prompt_parses_is_parsed_once(strangers_zoo, tmp_path):
    """Items of a text prompt are no texts: drawing to files hands on what was asked, not what was parsed."""
    spec = strangers_zoo.model(tiny(**TWO_STREAM))
    asked = {"labels": (), "prompts": ("red round", "blue"), "num_images": None, "num_images_per_prompt": 1, "batch_size": None, "seed": 0}
    request = asked | {"device": "cpu", "dtype": "float32", "random_weights": True}
    items = spec.prompt.parse(["red round", "blue"])
    found = Found("toy", spec, Folder(tmp_path), strangers_zoo)
    report = draw(found, items, tmp_path / "out", request=request)
    assert [sample["item"] for sample in report["samples"]] == items


def test_video_of_any_length_with_every_conditioning_and_exits(strangers_zoo):
    for conditioning in ("adaln-zero", "adaln", "in-context", "cross-attention"):
        spec = strangers_zoo.model(tiny(**VIDEO, conditioning={"kind": conditioning}))
        model = wake(build(spec)).requires_grad_(False)
        assert model.sample(num_images=2, output_type="latent").images.shape == (2, 3, 3, 8, 8)
        assert model.sample(num_images=1, num_frames=5, width=12, output_type="latent").images.shape == (1, 3, 5, 8, 12)
    assert model.backbone.exits == (2, 4)
    x, t, cond = torch.randn(1, 3, 3, 8, 8), torch.tensor(0.5, dtype=torch.float64), model.prompt.encode([1])
    schedule = spec.schedule.build()
    early = Denoiser(model.backbone, schedule, lambda t: [Branch(cond, depth=2)])(x, t)
    stream = model.backbone.run(model.backbone.begin(x, schedule.model_time(t).expand(1), cond), 0, 2)
    assert torch.equal(early.eps, schedule.split(model.backbone.head(stream, 2), x, t).eps)  # the exit's own head
    assert not torch.equal(model.backbone.head(stream, 2), model.backbone.head(stream, 4))


def test_a_conditioning_for_two_streams_is_refused_on_one(strangers_zoo):
    with pytest.raises(SpecError, match="conditioning 'toy-joint' requires 'two-streams'"):
        strangers_zoo.model(tiny(conditioning={"kind": "toy-joint"}, prompt={"kind": "toy-words"}))
    with pytest.raises(SpecError, match="conditioning 'adaln-zero' requires 'single-stream'"):
        strangers_zoo.model(tiny(backbone=TWO_STREAM["backbone"]))
    with pytest.raises(SpecError, match="8x7 is not divisible by the patch 2x2"):
        strangers_zoo.model(tiny(**VIDEO, sampling={"width": 7}))


def test_a_package_from_outside_is_listed_checked_and_sampled(tmp_path):
    assert len((PACKAGE / "ditzoo_stranger.py").read_text().splitlines()) < 60
    target = tmp_path / "site"
    install(PACKAGE, target)
    spec = tmp_path / "pixels.toml"
    spec.write_text(
        'conditioning = {kind = "adaln-zero"}\nprompt = {kind = "label", classes = 3}\nschedule = {kind = "cosine"}\n'
        'sampler = {kind = "stranger-euler"}\ncodec = {kind = "pixels"}\nsampling = {steps = 3}\n'
        '[backbone]\nkind = "stranger-pixels"\nwidth = 16\ndepth = 2\nin_channels = 3\ninput_size = [6, 4]\n'
    )
    env = {"PYTHONPATH": str(target)}
    listed = json.loads(run_ditzoo("plugins", "--json", env=env).stdout)
    mine = next(plugin for plugin in listed["plugins"] if plugin["name"] == "stranger")
    assert mine["origin"] == "ditzoo-stranger 1.2.3"
    assert mine["parts"] == {"sampler": ["stranger-euler"], "backbone": ["stranger-pixels"]}
    checked = run_ditzoo("check", spec, env=env)
    assert (checked.returncode, checked.stdout.split(":")[-1].split(" (")[0]) == (0, " ok")
    shown = json.loads(run_ditzoo("show", spec, "--json", env=env).stdout)
    assert (shown["tokens"], shown["size"]) == (24, [6, 4])
    drawn = run_ditzoo("sample", spec, "--random-weights", "-n", 3, "--out", tmp_path / "out", env=env)
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "out" / "00002.png").is_file()
    swapped = run_ditzoo(
        "sample",
        "fashion-dit",
        "--random-weights",
        "-n",
        1,
        "--set",
        "sampler.kind=stranger-euler",
        "--steps",
        2,
        "--out",
        tmp_path / "swapped",
        env=env,
    )
    assert swapped.returncode == 0, swapped.stderr
    without = run_ditzoo("check", spec)
    assert without.returncode == 2
    assert "no installed plugin offers backbone kind 'stranger-pixels'; installed: dit" in without.stderr
