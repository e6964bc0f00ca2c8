"""The ODE walked the other way: pictures to the noise they come from, and how likely they are."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import tiny, wake

from ditzoo.assemble import build, load_found
from ditzoo.errors import SamplingError
from ditzoo.interfaces import Prediction
from ditzoo.inversion import invert
from ditzoo.likelihood import density, log_likelihood
from ditzoo.sources import resolve

MEAN, STD = 0.3, 0.6


@pytest.fixture(scope="module")
def fashion(zoo, real_pictures):
    items = [real_pictures[i] for i in range(4)]
    model = load_found(resolve("fashion-dit", zoo, ["sampler.kind=euler"]))
    return model, torch.stack([item["pixels"] for item in items]), [item["item"] for item in items]


@pytest.mark.parametrize("kind", ["linear", "cosine", "flow", "gvp", "edm"])
def test_the_density_of_gaussian_data_is_the_closed_form(zoo, kind):
    schedule = zoo.part("schedule", kind).build()

    def denoise(x, t):
        alpha, sigma = (z.to(x) for z in schedule.alpha_sigma(t))
        x0 = MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x - alpha * MEAN)
        return Prediction(x0, (x - alpha * x0) / sigma)

    x = torch.linspace(-1.5, 1.5, 12, dtype=torch.float64).view(3, 4)
    expected = (-((x - MEAN) ** 2) / (2 * STD**2) - math.log(STD) - math.log(2 * math.pi) / 2).sum(1)
    torch.testing.assert_close(density(denoise, x, schedule, 200), expected, atol=0.05, rtol=0.01)


def test_real_pictures_are_likelier_than_noise_and_than_themselves_shuffled(fashion):
    model, pixels, labels = fashion
    shuffled = pixels.flatten(1)[:, torch.randperm(784, generator=torch.Generator().manual_seed(0))].view_as(pixels)
    even = torch.rand(pixels.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    real, mixed, noise = (
        log_likelihood(model, found, class_labels=labels, num_inference_steps=12).bits_per_dimension for found in (pixels, shuffled, even)
    )
    assert real.max() < 5
    assert min(mixed.min(), noise.min()) > 7


def test_fifty_steps_there_and_back_return_the_picture(fashion):
    model, pixels, labels = fashion
    noise = invert(model, pixels, class_labels=labels, num_inference_steps=50)
    assert float(noise.std()) == pytest.approx(1.0, abs=0.15)
    back = model.sample(class_labels=labels, latents=noise, num_inference_steps=50, guidance_scale=1.0, output_type="latent").images
    assert float((back - pixels).flatten(1).square().mean(1).sqrt().max()) < 1e-2


def test_ddim_without_noise_is_undone_too(zoo):
    model = wake(build(zoo.model(tiny(sampler="ddim"))), std=0.02)
    pixels = torch.rand(2, 3, 8, 8) * 2 - 1
    noise = invert(model, pixels, class_labels=[1, 2], num_inference_steps=20)
    back = model.sample(class_labels=[1, 2], latents=noise, num_inference_steps=20, output_type="latent").images
    torch.testing.assert_close(back, pixels, atol=2e-2, rtol=0)


@pytest.mark.parametrize(
    ("sampler", "told"),
    [
        ("heun", "Heun cannot be walked backwards; use one that is deterministic: sampler.kind=euler"),
        ("ddpm", "DDPM cannot be walked backwards"),
        ({"kind": "ddim", "eta": 0.5}, "DDIM cannot be walked backwards"),
        ({"kind": "euler", "clip": 1.0}, "what sampler.clip=1 cuts off cannot be found again"),
    ],
    ids=str,
)
def test_what_cannot_be_undone_is_refused(zoo, sampler, told):
    model = build(zoo.model(tiny(sampler=sampler)))
    with pytest.raises(SamplingError, match=told):
        invert(model, torch.zeros(1, 3, 8, 8), class_labels=1, num_inference_steps=3)
    with pytest.raises(SamplingError, match="pictures are 1x8x8, and 'tiny' works on 3x8x8"):
        invert(model, torch.zeros(1, 1, 8, 8), class_labels=1)
