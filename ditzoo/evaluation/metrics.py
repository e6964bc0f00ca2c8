"""Distances between sets of pictures, from features (N, D) and class scores (N, K). Float64 where cancellation would tell."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ditzoo.noise import generator


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Mean (D,) and covariance (D, D) of features, float64."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Gaussian:
        x = features.double()
        mean = x.mean(0)
        centred = x - mean
        return cls(mean, centred.T @ centred / (len(x) - 1))

    @cached_property
    def root(self) -> Tensor:
        """The symmetric root of the covariance (D, D)."""
        values, vectors = torch.linalg.eigh(self.covariance)
        return vectors * values.clamp(min=0).sqrt() @ vectors.T


def frechet(a: Gaussian, b: Gaussian) -> float:
    """Return |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) (Heusel et al. 2017).

    The root's trace is the sum of the roots of the eigenvalues of C_b^(1/2) C_a C_b^(1/2), which is symmetric. What b needs for it is
    computed once, so b is the one that others are compared with.
    """
    cross = torch.linalg.eigvalsh(b.root @ a.covariance @ b.root).clamp(min=0).sqrt().sum()
    apart = (a.mean - b.mean).square().sum()
    return float(apart + a.covariance.trace() + b.covariance.trace() - 2 * cross)


def kernel_distance(real: Tensor, fake: Tensor, *, subsets: int, size: int, seed: int = 0) -> tuple[float, float]:
    """Return mean and standard deviation over subsets of the unbiased squared MMD (KID, Binkowski et al. 2018).

    The kernel is (x . y / D + 1)^3; each subset takes `size` of either set without replacement.
    """
    size = min(size, len(real), len(fake))
    draws = generator(seed, "kid")
    found = []
    for _ in range(subsets):
        x = real[torch.randperm(len(real), generator=draws)[:size]].double()
        y = fake[torch.randperm(len(fake), generator=draws)[:size]].double()
        found.append(_mmd(x, y))
    values = torch.tensor(found, dtype=torch.float64)
    return float(values.mean()), float(values.std(correction=0))


def _mmd(x: Tensor, y: Tensor) -> float:
    n, dim = x.shape
    xx, yy, xy = ((a @ b.T / dim + 1).pow(3) for a, b in ((x, x), (y, y), (x, y)))
    within = (xx.sum() - xx.trace() + yy.sum() - yy.trace()) / (n * (n - 1))
    return float(within - 2 * xy.mean())


def precision_recall(real: Tensor, fake: Tensor, neighbours: int) -> tuple[float, float]:
    """Return the shares of fake within the manifold of real, and of real within that of fake (Kynkaanniemi et al. 2019).

    A set's manifold is the union of balls around its points, each reaching to the k-th nearest other. Both sets should be of one size.
    """
    return _covered(fake, real, _radii(real, neighbours)), _covered(real, fake, _radii(fake, neighbours))


def _radii(points: Tensor, neighbours: int) -> Tensor:
    return torch.cat([torch.cdist(part, points).kthvalue(neighbours + 1, dim=1).values for part in points.split(1000)])


def _covered(points: Tensor, centres: Tensor, radii: Tensor) -> float:
    inside = [(torch.cdist(part, centres) <= radii).any(dim=1) for part in points.split(1000)]
    return float(torch.cat(inside).double().mean())


def class_confidence(logits: Tensor) -> float:
    """Return exp E KL(p(y|x) || p(y)) (the Inception Score of Salimans et al. 2016, over whatever classifier gave the scores)."""
    log_p = logits.double().log_softmax(1)
    log_mean = log_p.exp().mean(0).log()
    return float((log_p.exp() * (log_p - log_mean)).sum(1).mean().exp())


def consistency(frames: Tensor) -> Tensor:
    """Return (B,) how much the frames of clips, by their features (B, T, F), stay alike: 1 where all are one.

    The mean over frames after the first of the cosines with the first and with the one before, halved (subject consistency of VBench,
    Huang et al. 2024). A clip of one frame is alike to itself.
    """
    unit = torch.nn.functional.normalize(frames.float(), dim=2)
    later = unit[:, 1:]
    if not later.shape[1]:
        return torch.ones(len(frames))
    alike = (later * unit[:, :1]).sum(2) + (later * unit[:, :-1]).sum(2)  # (B, T - 1)
    return alike.mean(1) / 2


def wilson(hits: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    p = hits / count
    centre, half = p + z * z / (2 * count), z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    return (centre - half) / (1 + z * z / count), (centre + half) / (1 + z * z / count)


def bootstrap(measure: Callable[[Tensor], float], count: int, resamples: int, *, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of a figure by the basic bootstrap over samples: `measure` is given row indices.

    The basic (pivotal) interval 2 v - q mirrors the resampled figures at the value, because resampling repeats points and so shifts
    a distance upwards: the plain quantiles would often not hold the value itself.
    """
    value = measure(torch.arange(count))
    draws = generator(seed, "bootstrap")
    found = torch.tensor([measure(torch.randint(count, (count,), generator=draws)) for _ in range(resamples)], dtype=torch.float64)
    low, high = torch.quantile(found, torch.tensor([0.025, 0.975], dtype=torch.float64))
    return 2 * value - float(high), 2 * value - float(low)
