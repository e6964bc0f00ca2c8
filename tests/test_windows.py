"""Clips longer than the network's window, drawn window by window."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import refused, run_ditzoo, wake
from test_given import frames_of, spec_of

from ditzoo.assemble import build
from ditzoo.errors import SamplingError
from ditzoo.windows import stretches


@pytest.fixture
def model(zoo):
    return wake(build(spec_of(zoo))).requires_grad_(False)


def test_each_window_knows_the_end_of_the_one_before_and_the_last_ends_the_clip(model):
    def spans(*given, **more):
        return [(span.start, span.stop) for span in stretches(model.spec, *given, **more)]

    assert spans(6, 2, num_frames=14) == [(0, 6), (4, 10), (8, 14)]
    assert spans(6, 2, num_frames=15) == [(0, 6), (4, 10), (8, 14), (9, 15)]
    assert spans(6, num_frames=12) == [(0, 6), (5, 11), (6, 12)]
    assert spans(4) == [(0, 4), (2, 6)]


def test_a_clip_is_its_windows_one_given_the_end_of_another(model):
    drawn = model.sample(class_labels=[0, 2], window=6, overlap=2, num_frames=10, seed=5, output_type="pt")
    assert drawn.frames.shape == (2, 1, 10, 8, 8)
    first = model.sample(class_labels=[0, 2], num_frames=6, seed=5, output_type="pt")
    assert torch.equal(drawn.frames[:, :, :6], first.frames)
    second = model.sample(class_labels=[0, 2], num_frames=6, seed=5 + 1_000_003, given=first.frames[:, :, -2:], output_type="pt")
    assert torch.equal(drawn.frames[:, :, 6:], second.frames[:, :, 2:])
    assert drawn.ledger.block_evals == first.ledger.block_evals + second.ledger.block_evals
    assert len(drawn.ledger.trace) == drawn.ledger.calls == first.ledger.calls + second.ledger.calls
    assert len(drawn.captions) == 2
    again = model.sample(class_labels=[0, 2], window=6, overlap=2, num_frames=10, seed=5, output_type="pt", batch_size=1)
    torch.testing.assert_close(again.frames, drawn.frames)
    assert [len(clip) for clip in model.sample(class_labels=1, window=4, num_frames=9).frames] == [9]
    assert model.sample(class_labels=1, window=None, overlap=None).frames[0]


def test_given_frames_begin_the_clip(model):
    start = frames_of(2)
    clip = model.sample(class_labels=1, window=4, num_frames=8, given=start, output_type="pt").frames
    torch.testing.assert_close(clip[0, :, :2], start)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"window": 6, "num_frames": 6}, "a window of 6 frames for a clip of 6; give fewer"),
        ({"window": 0, "num_frames": 6}, "a window of 0 frames"),
        ({"window": 4, "overlap": 4, "num_frames": 8}, "windows of 4 frames cannot share 4; give an overlap from 1 to 3"),
        ({"window": 4, "num_frames": 8, "latents": torch.zeros(1)}, "latents is of a whole clip"),
        ({"window": 4, "num_frames": 8, "generator": torch.Generator()}, "generator is of a whole clip"),
        ({"window": 4, "num_frames": 8, "output_type": "latent"}, "output_type 'latent' with a window"),
        ({"window": 4, "num_frames": 8, "at": "last", "given": frames_of(1)}, "at='last' with a window"),
        ({"overlap": 4, "num_frames": 8}, "sample takes no argument 'overlap'"),
    ],
)
def test_what_cannot_be_drawn_by_windows_is_refused(model, asked, message):
    with pytest.raises(SamplingError, match=message):
        model.sample(class_labels=1, **asked)


def test_models_without_frame_times_and_of_pictures_are_refused(zoo):
    untimed = build(spec_of(zoo, {"frame_times": False}))
    with pytest.raises(SamplingError, match="takes no given frames"):
        untimed.sample(class_labels=1, window=4, num_frames=8)
    with pytest.raises(SamplingError, match=r"a window is of clips, and 'fashion-dit' draws pictures"):
        stretches(zoo.spec("fashion-dit"), 4)
    rolling = build(spec_of(zoo, sampler={"kind": "rolling", "window": 4}))
    with pytest.raises(SamplingError, match="rolling"):
        rolling.sample(class_labels=1, window=4, num_frames=8)


def test_the_command_draws_by_windows(zoo, tmp_path, capsys, monkeypatch):
    build(spec_of(zoo)).save_pretrained(tmp_path / "model")
    asked = ["sample", f"local-dir:{tmp_path / 'model'}", "-l", "1", "--num-frames", "10"]
    run_ditzoo(*asked, "--window", "6", "--overlap", "2", "--out", str(tmp_path / "out"))
    told = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert "--window 6 --overlap 2" in told["command"]
    assert "a window of 12 frames for a clip of 10" in refused(capsys, monkeypatch, *asked, "--window", "12")
    assert "--overlap 2 is what windows share, and there is none" in refused(capsys, monkeypatch, *asked, "--overlap", "2")
    assert "--window with --num" in refused(capsys, monkeypatch, *asked, "--window", "6", "--num", "2")
