"""Sampling: pictures that do not change with their batch, and requests that are refused with a way out."""

from __future__ import annotations

import itertools

import pytest
import torch
from conftest import assert_near, tiny, wake

from ditzoo.assemble import build, load
from ditzoo.errors import SamplingError, UnknownNameError


@pytest.fixture(scope="module")
def model(zoo):
    prompt = {"kind": "label", "classes": 3, "names": ["cat, house cat", "dog", "fish"]}
    sampler = {"kind": "ddim", "eta": 0.5}
    return wake(build(zoo.model(tiny(prompt=prompt, sampler=sampler, backbone={"positions": "extend"})))).requires_grad_(False)


def latents(model, **request):
    return model.sample(output_type="latent", **request).images


def test_a_picture_does_not_change_with_its_batch(model):
    together = latents(model, class_labels=[0, 1, 2, 0, 1], seed=7, guidance_scale=2.0)
    assert_near(latents(model, class_labels=[0, 1, 2, 0, 1], seed=7, guidance_scale=2.0, batch_size=2), together)
    alone = latents(model, class_labels=2, seed=7, first_index=2, guidance_scale=2.0)
    assert_near(alone[0], together[2])
    assert torch.equal(latents(model, class_labels=[0, 1], seed=7), latents(model, class_labels=[0, 1], seed=7))
    assert not torch.equal(latents(model, class_labels=[0], seed=7), latents(model, class_labels=[0], seed=8))


def test_generators_as_diffusers_takes_them(model):
    one = latents(model, class_labels=[0, 1], generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(one, latents(model, class_labels=[0, 1], generator=torch.Generator().manual_seed(0)))
    each = latents(model, class_labels=[0, 1], generator=[torch.Generator().manual_seed(s) for s in (4, 5)])
    assert_near(each[1:], latents(model, class_labels=1, generator=[torch.Generator().manual_seed(5)]))


def test_labels_by_name_and_number_and_how_many(model):
    assert model.sample(class_labels=["house cat", "DOG", 2, "1"]).items == [0, 1, 2, 1]
    drawn = model.sample(class_labels=[2, 0], num_images_per_prompt=2)
    assert (drawn.items, drawn.captions) == ([2, 2, 0, 0], ["fish", "fish", "cat", "cat"])
    assert model.sample(num_images=4).items == [0, 1, 2, 0]
    assert model.sample(class_labels=torch.tensor([1])).images[0].size == (8, 8)
    assert model.sample(class_labels=1, return_dict=False)[0][0].mode == "RGB"


def test_sizes_and_output_types(model):
    assert latents(model, num_images=1, height=4, width=12).shape == (1, 3, 4, 12)
    pixels = model.sample(num_images=1, output_type="np").images
    assert pixels.shape == (1, 8, 8, 3)
    assert pixels.min() >= 0
    assert pixels.max() <= 1


def test_callback_sees_every_step(model):
    seen = []
    model.sample(num_images=1, num_inference_steps=4, callback_on_step_end=lambda i, t, x: seen.append((i, t)))
    assert [i for i, _ in seen] == [0, 1, 2, 3]
    assert seen[-1][1] == 0
    assert all(a > b for (_, a), (_, b) in itertools.pairwise(seen))


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        ({"class_label": 1}, SamplingError, "sample takes no argument 'class_label'; did you mean 'class_labels'"),
        ({"prompt": "a cat"}, SamplingError, "takes class_labels, found prompt='a cat'"),
        ({"class_labels": 3}, SamplingError, "label 3 is out of range; this model's labels are 0 to 2"),
        ({"class_labels": -1}, SamplingError, "label -1 is out of range"),
        ({"class_labels": "dgo"}, UnknownNameError, "no label 'dgo'; did you mean 'dog'"),
        ({"class_labels": 1.5}, SamplingError, "a label is a name or a number, found 1.5"),
        ({"class_labels": []}, SamplingError, "class_labels is empty"),
        ({"num_images": 0}, SamplingError, "0 samples asked of 'tiny'; at least 1 is needed"),
        ({"num_inference_steps": 0}, SamplingError, "sampling.steps: input should be greater than 0, found 0"),
        ({"num_inference_steps": -3}, SamplingError, "found -3"),
        ({"num_inference_steps": 1001}, SamplingError, "1001 steps asked of schedule 'linear', which has 1000"),
        ({"guidance_scale": float("nan")}, SamplingError, "guidance.scale: input should be a finite number, found nan"),
        ({"guidance_scale": -1.0}, SamplingError, "guidance.scale: input should be greater than or equal to 0"),
        ({"height": 7}, SamplingError, "patch=2 does not divide the latent 7x8; nearest latent: 8x8"),
        ({"num_frames": 4}, SamplingError, "'tiny' makes pictures, not video"),
        ({"output_type": "jpg"}, SamplingError, "no output_type 'jpg'"),
        ({"seed": -1}, SamplingError, "seed is -1"),
        ({"batch_size": 0}, SamplingError, "batch_size is 0"),
        ({"seed": 1, "generator": torch.Generator()}, SamplingError, "not both"),
        ({"class_labels": [0, 1], "generator": [torch.Generator()]}, SamplingError, "1 generators for 2 samples"),
        (
            {"class_labels": [0], "latents": torch.zeros(1, 3, 4, 4)},
            SamplingError,
            "latents are 1x3x4x4, and 1 samples of 'tiny' need 1x3x8x8",
        ),
    ],
)
def test_requests_that_do_not_fit_are_refused(model, request_, error, message):
    with pytest.raises(error) as caught:
        model.sample(**request_)
    assert message in str(caught.value)


def test_unconditional_models_run_under_every_conditioning(zoo):
    for kind in ("adaln-zero", "adaln", "in-context", "cross-attention"):
        model = wake(build(zoo.model(tiny(prompt={"kind": "none"}, conditioning={"kind": kind})))).requires_grad_(False)
        assert latents(model, num_images=2).shape == (2, 3, 8, 8)
        with pytest.raises(SamplingError, match="takes no prompt; say how many with num_images"):
            model.sample(class_labels=1)


def test_saved_models_load_by_folder_exactly(zoo, model, tmp_path):
    model.save_pretrained(tmp_path / "saved")
    again = load(f"local-dir:{tmp_path / 'saved'}", zoo=zoo, runtime="eager")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert torch.equal(latents(again, num_images=2), latents(model, num_images=2))
    assert again.spec.weights.schedule == model.spec.schedule


def test_times_that_do_not_fall_are_refused_before_a_step_is_made(zoo, monkeypatch):
    model = build(zoo.model(tiny(schedule={"kind": "flow"})))
    monkeypatch.setattr("ditzoo_flow.schedule.Flow.times", lambda self, steps: torch.tensor([1.0, 0.5, 0.5, 0.0], dtype=torch.float64))
    with pytest.raises(
        SamplingError, match=r"schedule 'flow' gives 4 times for 3 steps, 1, 0.5, 0.5, 0 ...; one more than steps, falling strictly"
    ):
        model.sample(num_images=1, num_inference_steps=3)
