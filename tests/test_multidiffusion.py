"""The sampler `multidiffusion`: looks through windows that overlap, at pictures and clips larger than the network sees at once."""

from __future__ import annotations

import warnings

import pytest
import torch
from conftest import refused, run_ditzoo, wake
from PIL import Image
from test_given import frames_of, spec_of

from ditzoo.assemble import build
from ditzoo.denoiser import Denoiser, guided
from ditzoo.errors import SamplingError, SamplingWarning, SpecError
from ditzoo.model_spec import Guidance
from ditzoo.request import adjusted
from ditzoo.room import bytes_a_picture
from ditzoo.sources import resolve
from ditzoo.windows import spread

WINDOWED = {"kind": "multidiffusion", "inner": "ddim", "window": [6]}
LEAVING = {"kind": "exit-residual", "prefix": 1, "every": 2, "warmup": 1, "whole_above": 1.0}


def drawing(zoo, sampler, **parts):
    torch.manual_seed(0)
    return wake(build(spec_of(zoo, schedule="cosine", sampler=sampler, **parts))).requires_grad_(False)


def test_what_fits_into_a_window_is_drawn_as_the_inner_sampler_draws_it(zoo):
    kind = {"class_labels": [0, 2], "guidance_scale": 3.0, "seed": 1, "output_type": "latent"}
    for frames in (3, 6):
        plain, windowed = (drawing(zoo, sampler).sample(num_frames=frames, **kind) for sampler in ("ddim", WINDOWED))
        assert torch.equal(plain.images, windowed.images)
        assert plain.ledger.block_evals == windowed.ledger.block_evals


def test_a_look_is_the_mean_of_the_windows_each_weighing_more_in_its_midst(zoo):
    model = drawing(zoo, WINDOWED)
    x, t = torch.randn(2, 1, 9, 8, 8), torch.tensor(0.5, dtype=torch.float64)
    cond, null = model.prompt.encode([0, 1]), model.prompt.null(2)
    denoiser = Denoiser(model.backbone, model.spec.schedule.build(), guided(cond, null, Guidance(scale=3.0)), steps=4)
    seen = model.spec.sampler.build().prepare(denoiser)(x, t)
    one, two = denoiser(x[:, :, :6], t).x0, denoiser(x[:, :, 3:], t).x0
    torch.testing.assert_close(seen.x0[:, :, :3], one[:, :, :3])
    torch.testing.assert_close(seen.x0[:, :, 6:], two[:, :, 3:])
    tent = torch.tensor([1.0, 2, 3, 3, 2, 1])
    up, down = tent[:3, None, None], tent[3:, None, None]
    torch.testing.assert_close(seen.x0[:, :, 3:6], (one[:, :, 3:] * down + two[:, :, :3] * up) / (up + down))


def test_it_is_walked_backwards_within_one_window_alone(zoo):
    model = build(spec_of(zoo, sampler=WINDOWED | {"inner": "euler"})).requires_grad_(False)
    sampler, schedule = model.spec.sampler.build(), model.spec.schedule.build()
    cond = model.prompt.encode([1])
    denoiser = Denoiser(model.backbone, schedule, guided(cond, None, Guidance()))
    x = torch.randn(1, 1, 6, 8, 8) * 0.1
    (*_, back), (*_, plain) = (one.invert(denoiser, x, schedule, 4) for one in (sampler, zoo.part("sampler", "euler").build()))
    assert torch.equal(back, plain)
    with pytest.raises(
        SamplingError, match="not walked backwards through windows, and 9x8x8 takes 2; give what fits into sampler.window=6"
    ):
        sampler.invert(denoiser, torch.randn(1, 1, 9, 8, 8), schedule, 4)


def test_windows_cover_an_axis_and_share_what_they_are_to_share(zoo):
    assert spread(9, 6, 3) == [0, 3]
    assert spread(10, 6, 3) == [0, 3, 4]
    for window, overlap, size, count in (([6], 0.0, (13, 8, 8), 3), ([6, 4], 0.5, (7, 8, 6), 6), ([1], 0.9, (3, 8, 8), 3)):
        sampler = zoo.part("sampler", WINDOWED | {"window": window, "overlap": overlap}).build()
        places = sampler.places(size)
        assert len(places) == count
        covered = torch.zeros(size)
        for place in places:
            assert covered[place].shape[: len(window)] == tuple(window)
            covered[place] += 1
        assert covered.min() >= 1


def test_pictures_are_drawn_by_windows_of_rows_and_columns(zoo):
    backbone = {"kind": "dit", "width": 32, "depth": 2, "heads": 2, "patch": 2, "in_channels": 1, "input_size": [8, 8]}
    sampler = {"kind": "multidiffusion", "inner": "heun", "window": [8, 8], "overlap": 0.25}
    parts = {"conditioning": "adaln-zero", "prompt": {"kind": "label", "classes": 3}, "codec": {"kind": "pixels", "channels": 1}}
    parts |= {"name": "tiny", "backbone": backbone, "schedule": "cosine", "sampler": sampler, "sampling": {"steps": 3}}
    model = wake(build(zoo.model(parts))).requires_grad_(False)
    seen = []
    begin = type(model.backbone).begin_with

    def watched(self, x, *rest):
        seen.append(tuple(x.shape[2:]))
        return begin(self, x, *rest)

    type(model.backbone).begin_with = watched
    try:
        drawn = model.sample(class_labels=1, height=12, width=20, output_type="pt")
    finally:
        type(model.backbone).begin_with = begin
    assert drawn.images.shape == (1, 1, 12, 20)
    assert set(seen) == {(8, 8)}  # never more at once


def test_a_depth_policy_remembers_each_window_by_itself_inside_and_outside(zoo):
    kind = {"class_labels": [0, 2], "num_frames": 9, "num_inference_steps": 6, "output_type": "latent"}
    early = {"kind": "early-exit", "policy": LEAVING}
    inside = drawing(zoo, WINDOWED | {"inner": early | {"inner": "ddim"}}).sample(**kind)
    outside = drawing(zoo, early | {"inner": WINDOWED}).sample(**kind)
    whole = drawing(zoo, WINDOWED).sample(**kind)
    assert torch.equal(inside.images, outside.images)
    assert inside.ledger.block_evals == outside.ledger.block_evals < whole.ledger.block_evals
    assert not torch.equal(inside.images, whole.images)


@pytest.mark.parametrize("inner", ["ddim", {"kind": "early-exit", "inner": "ddim", "policy": LEAVING}])
def test_given_frames_stay_and_rows_are_apart(zoo, inner):
    model = drawing(zoo, WINDOWED | {"inner": inner})
    given = frames_of(2)
    kind = {"num_frames": 11, "output_type": "pt", "given": given, "at": "last"}
    both = model.sample(class_labels=[0, 2], **kind).images
    torch.testing.assert_close(both[:, :, -2:], given.expand(2, *given.shape).reshape(2, 1, 2, 8, 8))
    torch.testing.assert_close(both[1:], model.sample(class_labels=[2], first_index=1, **kind).images, atol=1e-5, rtol=1e-5)


def test_frames_of_times_of_their_own_are_seen_through_windows_too(zoo):
    model = drawing(zoo, WINDOWED | {"inner": {"kind": "rolling", "window": 8}})
    clip = model.sample(class_labels=[1], num_frames=12, num_inference_steps=12, output_type="pt").images
    assert clip.shape == (1, 1, 12, 8, 8)
    assert bool(clip.isfinite().all())


def test_longer_clips_are_not_remarked_on_where_the_network_sees_none(zoo):
    positions = {"backbone": {"kind": "video-dit", "positions": "sincos", "width": 48, "depth": 2, "heads": 2, "in_channels": 1}}
    positions["backbone"] |= {"input_size": [6, 8, 8]}
    with pytest.warns(SamplingWarning, match="9 frames, and the table of frames was trained with 6"):
        drawing(zoo, "ddim", **positions).sample(class_labels=1, num_frames=9)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SamplingWarning)
        drawing(zoo, WINDOWED, **positions).sample(class_labels=1, num_frames=9)


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ({"window": [6, 8, 8, 8]}, "sampler.window=6x8x8x8 has 4 axes, and the latent 6x8x8 has 3"),
        ({"window": [6, 3]}, "sampler.window=6x3: .*patch"),
        ({"inner": WINDOWED}, "sampler.inner lays windows itself; name the solver there"),
        ({"inner": {"kind": "early-exit", "inner": WINDOWED}}, "sampler.inner lays windows itself; name the solver there"),
        (
            {"kind": "early-exit", "inner": WINDOWED | {"inner": {"kind": "early-exit", "inner": "ddim"}}, "window": None},
            "sampler.inner is an early-exit sampler itself",
        ),
        ({"overlap": 1.0}, "overlap"),
        ({"window": []}, "window"),
        ({"window": [0]}, "window"),
        ({"inner": {"kind": "early-exit", "inner": "ddim", "policy": {"kind": "exit-residual", "prefix": 9}}}, "prefix=9"),
    ],
)
def test_what_cannot_be_windowed_is_refused(zoo, sampler, message):
    with pytest.raises(SpecError, match=message):
        build(spec_of(zoo, schedule="cosine", sampler={name: value for name, value in (WINDOWED | sampler).items() if value is not None}))


def test_the_command_line_draws_what_a_table_does_not_serve_and_estimates_the_memory_of_a_window(zoo, tmp_path):
    wide = ["--height", "28", "--width", "70", "--steps", "2", "-n", "1"]
    windows = "sampler={kind='multidiffusion', inner='ddim', window=[28, 28], overlap=0.25}"
    done = run_ditzoo("sample", "fashion-dit", *wide, "--set", windows, "--out", tmp_path / "wide")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "wide" / "00000.png") as picture:
        assert picture.size == (70, 28)
    own, larger = (adjusted(resolve("fashion-dit", zoo, [windows]).spec, height=28, width=width) for width in (28, 700))
    assert bytes_a_picture(own) == bytes_a_picture(larger)


def test_the_command_line_says_which_window_does_not_fit(tmp_path, zoo, capsys, monkeypatch):
    drawing(zoo, "ddim").save_pretrained(tmp_path / "model")
    line = ["sample", f"local-dir:{tmp_path / 'model'}", "--set", "sampler={kind='multidiffusion', window=[4, 5], inner='ddim'}"]
    assert "sampler.window=4x5" in refused(capsys, monkeypatch, *line)
