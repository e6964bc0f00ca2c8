"""Stochastic samplers beside ddpm: Karras et al.'s churn, and Euler-Maruyama on SiT's reverse SDE."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ditzoo.interfaces import Denoise, Sampler, Schedule
from ditzoo.noise import Noise
from ditzoo.predictions import expand
from ditzoo_diffusion.along import VARIABLES
from ditzoo_diffusion.stochastic import clipped

PATH = VARIABLES["path"]
MOST = 2**0.5 - 1  # the largest share by which a level is raised


@dataclass(frozen=True)
class Churn(Sampler):
    """Noise is added at levels of sigma / alpha; the step is along the straight path, where no first step is too long for a second look."""

    churn: float
    interval: tuple[float, float]
    noise: float
    order: int
    clip: float | None

    def evaluations(self, steps: int) -> int:
        return steps if self.order == 1 else 2 * steps - 1

    def trajectory(self, denoise: Denoise, x: Tensor, schedule: Schedule, steps: int, noise: Noise) -> Iterator[Tensor]:
        times = schedule.times(steps)
        alphas, sigmas = schedule.alpha_sigma(times)
        top = _level(*schedule.alpha_sigma(torch.ones((), dtype=torch.float64)))
        for i in range(steps):
            t, alpha, sigma = times[i], alphas[i], sigmas[i]
            level, lowest = _level(alpha, sigma), sigmas[i + 1] == 0
            if self.interval[0] <= level <= self.interval[1]:
                raised = torch.minimum(level * (1 + min(self.churn / steps, MOST)), top)
                added = expand((raised**2 - level**2).clamp(min=0).sqrt() * self.noise, x) * noise.draw(x)
                t = schedule.time_at(-raised.log())
                raised_alpha, raised_sigma = schedule.alpha_sigma(t)
                x = expand(raised_alpha / alpha, x) * x + expand(raised_alpha, x) * added
                alpha, sigma = raised_alpha, raised_sigma
            seen = clipped(denoise(x, t), x, alpha, sigma, self.clip)
            ahead = expand(alphas[i + 1], x) * seen.x0 + expand(sigmas[i + 1], x) * seen.eps
            if self.order == 2 and not lowest:
                there = clipped(denoise(ahead, times[i + 1]), ahead, alphas[i + 1], sigmas[i + 1], self.clip)
                scales = PATH.scale(torch.stack([alpha, alphas[i + 1]]), torch.stack([sigma, sigmas[i + 1]]))
                walked = PATH.walked(torch.stack([alpha, alphas[i + 1]]), torch.stack([sigma, sigmas[i + 1]]))
                slope = (PATH.slope(seen) + PATH.slope(there)) / 2
                ahead = expand(scales[1] / scales[0], x) * x + expand(scales[1] * (walked[1] - walked[0]), x) * slope
            x = ahead
            yield x


def _level(alpha: Tensor, sigma: Tensor) -> Tensor:
    return sigma / alpha


@dataclass(frozen=True)
class ReverseSDE(Sampler):
    """x_s = DDIM(x_t) + (t - s) w / 2 * score + sqrt((t - s) w) z, with score = -eps / sigma and the diffusion w at t."""

    diffusion: str
    scale: float
    clip: float | None

    def trajectory(self, denoise: Denoise, x: Tensor, schedule: Schedule, steps: int, noise: Noise) -> Iterator[Tensor]:
        times = schedule.times(steps)
        alphas, sigmas = schedule.alpha_sigma(times)
        for i in range(steps):
            seen = clipped(denoise(x, times[i]), x, alphas[i], sigmas[i], self.clip)
            step = expand(alphas[i + 1], x) * seen.x0 + expand(sigmas[i + 1], x) * seen.eps
            if sigmas[i + 1] > 0:
                w = self.scale * (sigmas[i] if self.diffusion == "sigma" else torch.ones_like(sigmas[i])) * (times[i] - times[i + 1])
                step = step - expand(w / 2 / sigmas[i], x) * seen.eps + expand(w.sqrt(), x) * noise.draw(x)
            x = step
            yield x
