"""Figures of evaluation against torchmetrics, closed forms, and what must follow from their definitions."""

from __future__ import annotations

import math

import pytest
import torch

from ditzoo.evaluation.attributes import Wanted, attribute_agreement
from ditzoo.evaluation.metrics import Gaussian, bootstrap, class_confidence, frechet, kernel_distance, precision_recall, wilson
from ditzoo.noise import generator


class Identity(torch.nn.Module):
    """torchmetrics takes any module whose output are features; pictures here are the features themselves."""

    num_features = 24

    def forward(self, x):
        return x.flatten(1)


def points(count, dim=24, shift=0.0, seed=0):
    draws = generator(seed, "points")
    mix = torch.randn(dim, dim, generator=draws) / math.sqrt(dim)
    return torch.randn(count, dim, generator=draws) @ mix + shift


def test_frechet_is_torchmetrics_on_the_same_features():
    from torchmetrics.image.fid import FrechetInceptionDistance

    real, fake = points(3000), points(2000, shift=0.4, seed=1)
    theirs = FrechetInceptionDistance(feature=Identity(), input_img_size=(1, 1, 24), normalize=True).set_dtype(torch.float64)
    theirs.update(real[:, None, None].double(), real=True)
    theirs.update(fake[:, None, None].double(), real=False)
    assert frechet(Gaussian.of(fake), Gaussian.of(real)) == pytest.approx(float(theirs.compute()), rel=1e-3)


def test_frechet_of_gaussians_in_closed_form():
    a = Gaussian(torch.zeros(2).double(), torch.diag(torch.tensor([4.0, 9.0])).double())
    b = Gaussian(torch.tensor([3.0, 4.0]).double(), torch.diag(torch.tensor([1.0, 1.0])).double())
    assert frechet(a, b) == pytest.approx(25 + (2 - 1) ** 2 + (3 - 1) ** 2)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    turn = torch.linalg.qr(torch.randn(24, 24, dtype=torch.float64, generator=generator("turn")))[0]
    c, d = Gaussian.of(points(500)), Gaussian.of(points(500, seed=1))
    turned = [Gaussian(g.mean @ turn, turn.T @ g.covariance @ turn) for g in (c, d)]
    assert frechet(*turned) == pytest.approx(frechet(c, d), rel=1e-9)  # a rotation of the features changes nothing
    assert frechet(c, d) == pytest.approx(frechet(d, c), rel=1e-9)


def test_kid_is_torchmetrics_on_the_same_features():
    from torchmetrics.image.kid import poly_mmd

    real, fake = points(400), points(400, shift=0.3, seed=1)
    x, y = real.double(), fake.double()
    kernels = ((a @ b.T / 24 + 1) ** 3 for a, b in ((x, x), (x, y), (y, y)))
    expected = float(_theirs(poly_mmd, real, fake, *kernels))
    found, spread = kernel_distance(real, fake, subsets=3, size=400)  # subsets of the whole are the whole, in another order
    assert found == pytest.approx(expected, rel=1e-9)
    assert spread < 1e-12
    whole = points(4000)
    same, spread = kernel_distance(whole[:2000], whole[2000:], subsets=200, size=100)
    assert abs(same) < 4 * spread / math.sqrt(200)  # unbiased: nothing but noise between two halves of one set


def _theirs(poly_mmd, real, fake, *kernels):
    return poly_mmd(real.double(), fake.double(), degree=3, gamma=None, coef=1.0)


def test_precision_falls_with_noise_and_recall_with_collapse():
    real, fake = points(600), points(600, seed=0)[torch.randperm(600, generator=generator("order"))]
    assert precision_recall(real, fake, 5) == (1.0, 1.0)
    far = points(600, shift=50.0)
    assert precision_recall(real, far, 5) == (0.0, 0.0)
    half = torch.cat([fake[:300], far[:300]])
    precision, recall = precision_recall(real, half, 5)
    assert precision == pytest.approx(0.5, abs=0.02)
    assert recall > 0.9
    collapsed = real[:6].repeat(100, 1) + 1e-4 * points(600, seed=2)
    precision, recall = precision_recall(real, collapsed, 5)
    assert precision > 0.99
    assert recall < 0.05


def test_class_confidence_is_the_number_of_classes_that_are_told_apart():
    sure = torch.nn.functional.one_hot(torch.arange(100) % 10, 10) * 50.0
    assert class_confidence(sure) == pytest.approx(10, rel=1e-6)
    assert class_confidence(sure[:1].repeat(50, 1)) == pytest.approx(1)
    assert class_confidence(torch.zeros(50, 10)) == pytest.approx(1)


def test_wilson_holds_the_share_and_its_published_value():
    low, high = wilson(81, 263)  # Newcombe 1998, table I: 0.2553 to 0.3662
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert wilson(10, 10)[1] == pytest.approx(1)
    assert wilson(0, 10)[0] == pytest.approx(0, abs=1e-12)


def test_the_bootstrap_covers_the_truth_as_often_as_it_says():
    """The mean of normals: of 200 intervals from 60 samples about 95 % hold the true mean (binomial bounds)."""
    held = 0
    for seed in range(200):
        x = torch.randn(60, generator=generator(seed, "coverage"), dtype=torch.float64)
        low, high = bootstrap(lambda rows, x=x: float(x[rows].mean()), 60, 200, seed=seed)
        held += low <= 0 <= high
    assert 178 <= held <= 199


def test_the_interval_of_a_distance_holds_the_distance():
    real, fake = Gaussian.of(points(4000)), points(500, shift=0.2, seed=1)
    value = frechet(Gaussian.of(fake), real)
    low, high = bootstrap(lambda rows: frechet(Gaussian.of(fake[rows]), real), 500, 100)
    assert low < value
    assert high - low < value
    # resampling repeats points, which moves every resample up: the mirrored interval reaches below, toward what more samples would give
    assert low < frechet(Gaussian.of(points(20_000, shift=0.2, seed=1)), real) + 0.5 * value


def test_attributes_are_counted_by_name_and_by_group():
    wanted = Wanted(
        torch.tensor([[0, 1], [1, 1], [2, 0], [0, 0]]),
        {"hair": ["a", "b", "c"], "hat": ["no", "yes"]},
        {"new": torch.tensor([True, False, False, True])},
    )
    found = torch.tensor([[0, 1], [0, 1], [2, 1], [0, 1]])
    told = attribute_agreement(found, wanted, 50)
    assert told["value"] == 5 / 8
    assert told["by_attribute"] == {"hair": 0.75, "hat": 0.5}
    assert told["by_group"] == {"new": 0.75}
    low, high = told["interval_95"]
    assert low <= 5 / 8 <= high
