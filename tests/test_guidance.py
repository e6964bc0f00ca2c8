"""Guidance as a request has it: a scale a picture, a label to lead away from, the deviation brought back; each against its formula."""

from __future__ import annotations

import json
import shlex

import pytest
import torch
from conftest import run_ditzoo, tiny, wake

from ditzoo.assemble import build
from ditzoo.denoiser import Ledger
from ditzoo.errors import SamplingError
from ditzoo.request import Steering
from ditzoo.sampling import denoiser_of

T = torch.tensor(0.6, dtype=torch.float64)


@pytest.fixture(scope="module")
def model(zoo):
    return wake(build(zoo.model(tiny(guidance={"scale": 3.0}))), std=0.2)


def native(model, x, items):
    schedule = model.spec.schedule.build()
    return model(x, schedule.model_time(T).float().expand(len(x)), items)


def seen(model, x, items, spec=None, steering=None):
    return denoiser_of(model, spec or model.spec, items, Ledger(), steering or Steering())(x, T)


def split(model, out, x):
    return model.spec.schedule.build().split(out, x, T)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_the_guided_output_is_null_plus_scale_times_the_difference(model, scale):
    x = torch.randn(3, 3, 8, 8)
    spec = model.spec.model_copy(update={"guidance": model.spec.guidance.model_copy(update={"scale": scale})})
    cond, null = native(model, x, [1, 2, 3]), native(model, x, [model.spec.prompt.classes] * 3)
    expected = split(model, null + scale * (cond - null), x)
    torch.testing.assert_close(seen(model, x, [1, 2, 3], spec).x0, expected.x0, atol=2e-3, rtol=2e-3)


def test_a_scale_a_picture_is_each_pictures_own(model):
    x, scales = torch.randn(3, 3, 8, 8), (0.0, 1.0, 5.0)
    found = seen(model, x, [1, 2, 3], steering=Steering(scales=scales)).x0
    for row, scale in enumerate(scales):
        spec = model.spec.model_copy(update={"guidance": model.spec.guidance.model_copy(update={"scale": scale})})
        torch.testing.assert_close(found[row : row + 1], seen(model, x[row : row + 1], [row + 1], spec).x0, atol=2e-3, rtol=2e-3)


def test_a_negative_label_stands_where_the_null_does(model):
    x = torch.randn(2, 3, 8, 8)
    cond, away = native(model, x, [1, 2]), native(model, x, [4, 4])
    expected = split(model, away + 3.0 * (cond - away), x)
    torch.testing.assert_close(seen(model, x, [1, 2], steering=Steering(negative=(4, 4))).x0, expected.x0, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("rescale", [0.3, 1.0])
def test_rescale_brings_the_deviation_back(model, rescale):
    """Eq. 14-16 of Lin et al. 2023: x = w x std(cond) / std(x) + (1 - w) x."""
    x = torch.randn(2, 3, 8, 8)
    cond, null = native(model, x, [1, 2]), native(model, x, [model.spec.prompt.classes] * 2)
    guided = null + 3.0 * (cond - null)
    share = cond.flatten(1).std(1) / guided.flatten(1).std(1)
    expected = split(model, guided * (rescale * share + 1 - rescale).view(-1, 1, 1, 1), x)
    spec = model.spec.model_copy(update={"guidance": model.spec.guidance.model_copy(update={"rescale": rescale})})
    torch.testing.assert_close(seen(model, x, [1, 2], spec).x0, expected.x0, atol=2e-3, rtol=2e-3)


def test_sample_takes_them_and_each_picture_is_what_it_is_alone(model):
    asked = {"num_inference_steps": 3, "output_type": "pt", "seed": 5}
    together = model.sample(class_labels=[1, 2, 3], guidance_scale=[1.0, 2.0, 4.0], negative_class_labels=[4, 3, 0], **asked).images
    for row, (label, scale, away) in enumerate(((1, 1.0, 4), (2, 2.0, 3), (3, 4.0, 0))):
        alone = model.sample(class_labels=label, guidance_scale=[scale], negative_class_labels=away, first_index=row, **asked).images
        torch.testing.assert_close(together[row : row + 1], alone, atol=2e-3, rtol=2e-3)
    assert not torch.equal(
        model.sample(class_labels=[1], guidance_rescale=0.7, **asked).images, model.sample(class_labels=[1], **asked).images
    )


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        ({"guidance_scale": [1.0, 2.0]}, "2 guidance scales for 3 samples"),
        ({"guidance_scale": [1.0, -2.0, 3.0]}, "guidance scale -2 is below 0"),
        ({"guidance_scale": -1.0}, "guidance.scale: input should be greater than or equal to 0"),
        ({"guidance_rescale": 2.0}, "guidance.rescale: input should be less than or equal to 1"),
        ({"negative_class_labels": [1, 2]}, "2 items of negative_class_labels for 3 samples"),
        ({"negative_class_labels": 77}, "77"),
        ({"negative_prompt": "blurry"}, "takes negative_class_labels, found negative_prompt='blurry'"),
        ({"negative_class_labels": 1, "guidance_scale": 1.0}, "negative_class_labels without guidance says nothing"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(model, request_, told):
    with pytest.raises(SamplingError) as refusal:
        model.sample(class_labels=[1, 2, 3], num_inference_steps=2, **request_)
    assert told in str(refusal.value)


def test_the_command_line_takes_them_and_says_them_again(tmp_path):
    words = [
        "sample",
        "fashion-dit",
        "-l",
        "bag",
        "-l",
        "coat",
        "--negative-label",
        "sandal",
        "--guidance-rescale",
        0.5,
    ]
    done = run_ditzoo(*words, "--steps", 2, "--out", tmp_path / "a", "--json")
    assert done.returncode == 0, done.stderr
    command = json.loads(done.stdout)["command"]
    assert "--negative-label sandal" in command
    assert "--guidance-rescale 0.5" in command
    again = run_ditzoo(*shlex.split(command.replace(str(tmp_path / "a"), str(tmp_path / "b")))[1:])
    assert again.returncode == 0, again.stderr
    plain = run_ditzoo(*words[:6], "--steps", 2, "--out", tmp_path / "c")
    assert plain.returncode == 0, plain.stderr
    drawn = [(tmp_path / name / "00000.png").read_bytes() for name in "abc"]
    assert drawn[0] == drawn[1] != drawn[2]
    wrong = run_ditzoo(*words, "--negative-label", "hat", "--negative-label", "bag", "--out", tmp_path / "d")
    assert wrong.returncode == 2
    assert "hat" in wrong.stderr
