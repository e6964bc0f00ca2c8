"""Multistep solvers in half the log signal-to-noise ratio, lambda = log(alpha / sigma): DPM-Solver++ and UniPC.

Both solve x_s = (sigma_s / sigma_t) x_t + sigma_s int_{lambda_t}^{lambda_s} e^lambda x_0 dlambda with x_0 as a polynomial through what
was seen before (Lu et al. 2022, "DPM-Solver++", eq. 8; Zhao et al. 2023). Steps are of lower order where too little has been seen, and
the last, to clean data, is of first order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ditzoo.interfaces import Denoise, Sampler, Schedule
from ditzoo.noise import Noise


class Grid:
    """alpha, sigma and lambda at the times of one run, as floats: lambda is -inf at pure noise and inf at clean data."""

    def __init__(self, schedule: Schedule, steps: int) -> None:
        self.times = schedule.times(steps)
        alphas, sigmas = schedule.alpha_sigma(self.times)
        self.alpha, self.sigma = alphas.tolist(), sigmas.tolist()
        self.half = (alphas.log() - sigmas.log()).tolist()

    def order(self, i: int, most: int) -> int:
        """Return the order that step i can have: what was seen before allows it, and the last step to clean data is of the first."""
        if self.sigma[i + 1] == 0:
            return 1
        return min(most, i + 1)


@dataclass(frozen=True)
class DPMSolver(Sampler):
    """DPM-Solver++ (Lu et al. 2022), order 1 to 3 with one look a step; `sde` is its stochastic form (orders 1 and 2).

    Order 3 begins with a first-order step, whose error alone would leave the whole of second order: the second look corrects it. Its
    curvature counts in full, 2 phi_3; the published multistep code, and diffusers after it, has it by half and is of second order.
    """

    order: int = 2
    sde: bool = False
    clip: float | None = None

    def trajectory(self, denoise: Denoise, x: Tensor, schedule: Schedule, steps: int, noise: Noise) -> Iterator[Tensor]:
        grid, seen, start = Grid(schedule, steps), list[Tensor](), x
        for i in range(steps):
            x0 = denoise(x, grid.times[i]).x0
            seen.append(x0 if self.clip is None else x0.clamp(-self.clip, self.clip))
            if self.order == 3 and i == 1:
                x = _moved(start, seen, grid, 0, 1, corrected=True)
            x = self._step(x, seen, grid, i, grid.order(i, self.order), noise)
            yield x

    def _step(self, x: Tensor, seen: Sequence[Tensor], grid: Grid, i: int, order: int, noise: Noise) -> Tensor:
        h = grid.half[i + 1] - grid.half[i]
        keep, far = grid.sigma[i + 1] / grid.sigma[i], grid.alpha[i + 1]
        rest = 2 * h if self.sde else h
        gain = far * -math.expm1(-rest)  # of x_0 itself
        x = keep * (math.exp(-h) if self.sde else 1.0) * x + gain * seen[i]
        if order > 1:
            first, second = _differences(seen, grid.half, i, h, order)
            if order == 2:
                x = x + gain / 2 * first
            else:
                bend = math.expm1(-h)
                x = x + far * (bend / h + 1) * first - 2 * far * ((bend + h) / h**2 - 0.5) * second
        if self.sde and grid.sigma[i + 1] > 0:
            x = x + grid.sigma[i + 1] * math.sqrt(-math.expm1(-2 * h)) * noise.draw(x)
        return x


def _differences(seen: Sequence[Tensor], half: Sequence[float], i: int, h: float, order: int) -> tuple[Tensor, Tensor]:
    """Return h times the slope and h^2 times half the curvature of x_0 over lambda at step i, from the last `order` looks."""
    near = (half[i] - half[i - 1]) / h
    first = (seen[i] - seen[i - 1]) / near
    if order == 2:
        return first, torch.zeros_like(first)
    far = (half[i - 1] - half[i - 2]) / h
    before = (seen[i - 1] - seen[i - 2]) / far
    share = near / (near + far)
    return first + share * (first - before), (first - before) / (near + far)


def _moved(x: Tensor, seen: Sequence[Tensor], grid: Grid, i: int, order: int, *, corrected: bool) -> Tensor:
    """Return x after step i; `corrected` uses what was seen at its end too, which makes it of one order more."""
    h, far = grid.half[i + 1] - grid.half[i], grid.alpha[i + 1]
    x_next = grid.sigma[i + 1] / grid.sigma[i] * x - far * math.expm1(-h) * seen[i]
    finite = [k for k in range(1, order) if math.isfinite(grid.half[i - k])]  # pure noise is infinitely far away, and tells no slope
    places = [(grid.half[i - k] - grid.half[i]) / h for k in finite]
    slopes = [(seen[i - k] - seen[i]) / place for k, place in zip(finite, places, strict=True)]
    if corrected:
        places, slopes = [*places, 1.0], [*slopes, seen[i + 1] - seen[i]]
    for weight, slope in zip(_weights(places, -h), slopes, strict=True):
        x_next = x_next - far * math.expm1(-h) * weight * slope
    return x_next


@dataclass(frozen=True)
class UniPC(Sampler):
    """UniPC (Zhao et al. 2023) over x_0 with B(h) = e^h - 1: a predictor and, from the same look, a corrector of the step before."""

    order: int = 2
    clip: float | None = None

    def trajectory(self, denoise: Denoise, x: Tensor, schedule: Schedule, steps: int, noise: Noise) -> Iterator[Tensor]:
        grid, seen, start = Grid(schedule, steps), list[Tensor](), x
        for i in range(steps):
            x0 = denoise(x, grid.times[i]).x0
            seen.append(x0 if self.clip is None else x0.clamp(-self.clip, self.clip))
            if i > 0:
                x = _moved(start, seen, grid, i - 1, grid.order(i - 1, self.order), corrected=True)
            start = x
            x = _moved(x, seen, grid, i, grid.order(i, self.order), corrected=False)
            yield x


def _weights(places: Sequence[float], hh: float) -> list[float]:
    """Solve sum_m weight_m place_m^(k - 1) = k! phi_(k + 1)(hh) / (B(hh) / hh) for k = 1 .. (Zhao et al. 2023, theorem 3.1).

    With one place the paper's choice is 1/2, which has the same order and keeps the step stable.
    """
    count = len(places)
    if count < 2:
        return [0.5] * count
    bound, phi, right = math.expm1(hh), math.expm1(hh) / hh - 1, list[float]()
    for k in range(1, count + 1):
        right.append(phi * math.factorial(k) / bound)
        phi = phi / hh - 1 / math.factorial(k + 1)
    rows = torch.tensor([[place**k for place in places] for k in range(count)], dtype=torch.float64)
    solved: list[float] = torch.linalg.solve(rows, torch.tensor(right, dtype=torch.float64)).tolist()
    return solved
