"""Data whose exact denoiser is known: a mixture of three Gaussians."""

from __future__ import annotations

import torch

from ditzoo.interfaces import Prediction, Schedule

SHARES = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)
MEANS = torch.tensor([-1.2, 0.4, 1.5], dtype=torch.float64)
DEVIATIONS = torch.tensor([0.35, 0.25, 0.4], dtype=torch.float64)


def mixture_denoiser(schedule):
    """The exact mean of x_0 given x_t, and the eps that belongs to it; every element is a draw of its own."""

    def denoise(x, t):
        alpha, sigma = schedule.alpha_sigma(t)
        variance = (alpha * DEVIATIONS) ** 2 + sigma**2
        apart = x.double()[..., None] - alpha * MEANS
        share = (SHARES.log() - variance.log() / 2 - apart.square() / (2 * variance)).softmax(-1)
        x0 = (share * (MEANS + alpha * DEVIATIONS**2 / variance * apart)).sum(-1)
        return Prediction(x0.to(x), ((x - alpha * x0) / sigma).to(x))

    return denoise


def ends():
    """Mean and standard deviation of the data."""
    mean = float((SHARES * MEANS).sum())
    return mean, float(((SHARES * (DEVIATIONS**2 + MEANS**2)).sum() - mean**2).sqrt())


def distribution(x):
    """The data's distribution function."""
    return (SHARES * torch.special.ndtr((x[..., None] - MEANS) / DEVIATIONS)).sum(-1)


class Window(Schedule):
    """A schedule walked evenly from one of its times to another."""

    def __init__(self, schedule, hi, lo):
        self.schedule, self.hi, self.lo = schedule, hi, lo

    def times(self, steps):
        return torch.linspace(self.hi, self.lo, steps + 1, dtype=torch.float64)

    def alpha_sigma(self, t):
        return self.schedule.alpha_sigma(t)

    def model_time(self, t):
        return self.schedule.model_time(t)

    def split(self, out, x, t):
        return self.schedule.split(out, x, t)

    def target(self, x0, eps, t):
        return self.schedule.target(x0, eps, t)

    def draw(self, uniform):
        return self.schedule.draw(uniform)
