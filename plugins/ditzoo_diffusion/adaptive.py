"""Dormand and Prince's embedded pair of orders 5 and 4 along the straight path's variable, with steps as long as a tolerance allows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ditzoo.errors import SamplingError
from ditzoo.interfaces import Denoise, Prediction, Sampler, Schedule
from ditzoo.noise import Noise
from ditzoo.predictions import expand
from ditzoo_diffusion.along import VARIABLES
from ditzoo_diffusion.stochastic import clipped

# Dormand and Prince 1980: nodes, stages, and the difference of the two orders' weights
NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES: tuple[tuple[float, ...], ...] = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
PATH = VARIABLES["path"]
END = 1e-3  # the share of noise at which the last look is taken: what is left is one step to the data seen there
MOST_STEPS = 10_000


@dataclass(frozen=True)
class Adaptive(Sampler):
    """Between the times that are walked it takes steps of its own; the number of looks is known afterwards, from the ledger."""

    rtol: float
    atol: float
    clip: float | None

    def trajectory(self, denoise: Denoise, x: Tensor, schedule: Schedule, steps: int, noise: Noise) -> Iterator[Tensor]:
        times = schedule.times(steps)
        alphas, sigmas = schedule.alpha_sigma(times)
        marks = PATH.walked(alphas, sigmas).tolist()
        slope = Slope(denoise, schedule, self.clip)
        z, length = x / expand(PATH.scale(alphas[0], sigmas[0]), x), 0.0
        for i in range(steps):
            end = max(marks[i + 1], END)
            if marks[i] > end:
                z, length = self._integrate(slope, z, marks[i], end, length)
            x = expand(PATH.scale(alphas[i + 1], sigmas[i + 1]), x) * z
            if sigmas[i + 1] == 0:
                x = expand(alphas[i + 1], x) * slope.data(z, min(marks[i], end))
            yield x

    def _integrate(self, slope: Slope, z: Tensor, here: float, end: float, length: float) -> tuple[Tensor, float]:
        """Return z at `end` and the step length reached. Lengths are negative: the share of noise falls."""
        length = max(length, end - here) if length else (end - here) / 4
        first = slope(z, here)
        for _ in range(MOST_STEPS):
            step = max(length, end - here)
            looks = [first]
            for node, weights in zip(NODES[1:], STAGES[1:], strict=True):
                stage = z + step * sum((w * k for w, k in zip(weights, looks, strict=True) if w), start=torch.zeros_like(z))
                looks.append(slope(stage, here + node * step))
            bound = self.atol + self.rtol * torch.maximum(z.abs(), stage.abs())
            error = step * sum((w * k for w, k in zip(ERROR, looks, strict=True) if w), start=torch.zeros_like(z)) / bound
            worst = float(error.flatten(1).square().mean(1).sqrt().max())
            if worst <= 1:
                z, here, first = stage, here + step, looks[-1]
                if here <= end + 1e-12:
                    return z, length
            length = step * min(5.0, max(0.2, 0.9 * max(worst, 1e-10) ** -0.2))
        raise SamplingError(
            f"adaptive took {MOST_STEPS} steps and is at {here:g} of {end:g}; raise sampler.rtol={self.rtol:g} or sampler.atol"
        )


@dataclass(frozen=True)
class Slope:
    """eps - x_0 at a share of noise, from x scaled to the straight path."""

    denoise: Denoise
    schedule: Schedule
    clip: float | None

    def __call__(self, z: Tensor, share: float) -> Tensor:
        return PATH.slope(self._see(z, share))

    def data(self, z: Tensor, share: float) -> Tensor:
        return self._see(z, share).x0

    def _see(self, z: Tensor, share: float) -> Prediction:
        ratio = torch.tensor((1 - share) / share, dtype=torch.float64)
        t = self.schedule.time_at(ratio.log())
        alpha, sigma = self.schedule.alpha_sigma(t)
        x = z * expand(PATH.scale(alpha, sigma), z)
        return clipped(self.denoise(x, t), x, alpha, sigma, self.clip)
