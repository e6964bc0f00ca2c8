"""Heun's method on the probability-flow ODE, for any schedule given by alpha and sigma.

With y = x / sigma and u = alpha / sigma the ODE is dy/du = x_0 (Karras et al. 2022 in other variables), so a step from
t to s is x_s = (sigma_s / sigma_t) x_t + sigma_s (u_s - u_t) x_0, with the mean of x_0 at both ends for second order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from ditzoo.interfaces import Denoise, Sampler, Schedule
from ditzoo.noise import Noise
from ditzoo.predictions import expand


@dataclass(frozen=True)
class Heun(Sampler):
    """Second order; the last step, to sigma = 0, is first order and returns the predicted data."""

    clip: float | None = None

    def evaluations(self, steps: int) -> int:
        return 2 * steps - 1

    def trajectory(self, denoise: Denoise, x: Tensor, schedule: Schedule, steps: int, noise: Noise) -> Iterator[Tensor]:
        times = schedule.times(steps)
        alphas, sigmas = schedule.alpha_sigma(times)
        for i in range(steps):
            keep = expand(sigmas[i + 1] / sigmas[i], x)
            take = expand(alphas[i + 1] - sigmas[i + 1] * alphas[i] / sigmas[i], x)
            x0 = self._data(denoise, x, times[i])
            ahead = keep * x + take * x0
            if sigmas[i + 1] > 0:
                ahead = keep * x + take * (x0 + self._data(denoise, ahead, times[i + 1])) / 2
            x = ahead
            yield x

    def _data(self, denoise: Denoise, x: Tensor, t: Tensor) -> Tensor:
        x0 = denoise(x, t).x0
        return x0 if self.clip is None else x0.clamp(-self.clip, self.clip)
