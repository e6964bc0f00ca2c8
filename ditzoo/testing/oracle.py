"""Data whose exact denoiser is known: a mixture of three Gaussians, and two correlated numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from ditzoo.interfaces import Denoise, Prediction, Schedule

SHARES = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)
MEANS = torch.tensor([-1.2, 0.4, 1.5], dtype=torch.float64)
DEVIATIONS = torch.tensor([0.35, 0.25, 0.4], dtype=torch.float64)


def mixture_denoiser(schedule: Schedule) -> Denoise:
    """The exact mean of x_0 given x_t, and the eps that belongs to it; every element is a draw of its own."""

    def denoise(x: Tensor, t: Tensor) -> Prediction:
        alpha, sigma = schedule.alpha_sigma(t)
        variance = (alpha * DEVIATIONS) ** 2 + sigma**2
        apart = x.double()[..., None] - alpha * MEANS
        share = (SHARES.log() - variance.log() / 2 - apart.square() / (2 * variance)).softmax(-1)
        x0 = (share * (MEANS + alpha * DEVIATIONS**2 / variance * apart)).sum(-1)
        return Prediction(x0.to(x), ((x - alpha * x0) / sigma).to(x), torch.zeros_like(x))

    return denoise


def ends() -> tuple[float, float]:
    """Mean and standard deviation of the data."""
    mean = float((SHARES * MEANS).sum())
    return mean, float(((SHARES * (DEVIATIONS**2 + MEANS**2)).sum() - mean**2).sqrt())


def distribution(x: Tensor) -> Tensor:
    """The data's distribution function."""
    return (SHARES * torch.special.ndtr((x[..., None] - MEANS) / DEVIATIONS)).sum(-1)


class Gaussian2:
    """Two correlated normal numbers, (B, 2)."""

    mean = torch.tensor([0.5, -0.3], dtype=torch.float64)
    covariance = torch.tensor([[0.5, 0.3], [0.3, 0.4]], dtype=torch.float64)

    def denoiser(self, schedule: Schedule) -> Denoise:
        """x_0 given x_t is normal with mean m + a C (a^2 C + s^2)^-1 (x_t - a m)."""

        def denoise(x: Tensor, t: Tensor) -> Prediction:
            alpha, sigma = schedule.alpha_sigma(t)
            whole = alpha**2 * self.covariance + sigma**2 * torch.eye(2, dtype=torch.float64)
            gain = alpha * self.covariance @ torch.linalg.inv(whole)
            x0 = self.mean + (x.double() - alpha * self.mean) @ gain.T
            return Prediction(x0.to(x), ((x - alpha * x0) / sigma).to(x), torch.zeros_like(x))

        return denoise


class Window(Schedule):
    """A schedule walked evenly from one of its times to another."""

    def __init__(self, schedule: Schedule, hi: float, lo: float) -> None:
        self.schedule, self.hi, self.lo = schedule, hi, lo

    def times(self, steps: int) -> Tensor:
        return torch.linspace(self.hi, self.lo, steps + 1, dtype=torch.float64)

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.schedule.alpha_sigma(t)

    def model_time(self, t: Tensor) -> Tensor:
        return self.schedule.model_time(t)

    def split(self, out: Tensor, x: Tensor, t: Tensor) -> Prediction:
        return self.schedule.split(out, x, t)

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        return self.schedule.target(x0, eps, t)

    def draw(self, uniform: Tensor) -> Tensor:
        return self.schedule.draw(uniform)
