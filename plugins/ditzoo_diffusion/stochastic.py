"""ddpm and ddim for any schedule given by alpha and sigma.

For a step from t to s < t, with a = alpha_t / alpha_s and d^2 = sigma_t^2 - a^2 sigma_s^2 (the noise that the step adds):
the posterior q(x_s | x_t, x_0) has mean a sigma_s^2 / sigma_t^2 x_t + alpha_s d^2 / sigma_t^2 x_0 and variance
d^2 sigma_s^2 / sigma_t^2 (Kingma et al. 2021, appendix A; for variance-preserving paths eq. 6-7 of Ho et al. 2020).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ditzoo.interfaces import Denoise, Prediction, Sampler, Schedule
from ditzoo.noise import Noise
from ditzoo.predictions import expand


def clipped(prediction: Prediction, x: Tensor, alpha: Tensor, sigma: Tensor, clip: float | None, keep_eps: bool = False) -> Prediction:
    """Bound x_0 to [-clip, clip], and make eps consistent with it unless it is to be kept."""
    if clip is None:
        return prediction
    x0 = prediction.x0.clamp(-clip, clip)
    if keep_eps:
        return Prediction(x0, prediction.eps, prediction.variance)
    return Prediction(x0, (x - expand(alpha, x) * x0) / expand(sigma, x), prediction.variance)


class Step(NamedTuple):
    """The noise levels on both sides of a step from t to s, scalars in float64."""

    alpha: Tensor
    sigma: Tensor
    next_alpha: Tensor
    next_sigma: Tensor

    @property
    def added(self) -> Tensor:
        """The variance d^2 of the noise between s and t."""
        return self.sigma**2 - (self.alpha / self.next_alpha * self.next_sigma) ** 2

    @property
    def small(self) -> Tensor:
        """The variance of the posterior q(x_s | x_t, x_0)."""
        return self.added * (self.next_sigma / self.sigma) ** 2


@dataclass(frozen=True)
class Ancestral(Sampler):
    """One look at the data, then one step from it."""

    clip: float | None = None
    keep_eps: bool = False

    def trajectory(self, denoise: Denoise, x: Tensor, schedule: Schedule, steps: int, noise: Noise) -> Iterator[Tensor]:
        times = schedule.times(steps)
        alphas, sigmas = schedule.alpha_sigma(times)
        for i in range(steps):
            seen = clipped(denoise(x, times[i]), x, alphas[i], sigmas[i], self.clip, self.keep_eps)
            x = self.advance(x, seen, Step(alphas[i], sigmas[i], alphas[i + 1], sigmas[i + 1]), noise)
            yield x

    @abstractmethod
    def advance(self, x: Tensor, seen: Prediction, step: Step, noise: Noise) -> Tensor:
        """Return x at the end of the step. No noise is added where the step ends in clean data."""


@dataclass(frozen=True)
class DDPM(Ancestral):
    """Draws x_s from the posterior around the predicted x_0."""

    variance: str = "small"

    def advance(self, x: Tensor, seen: Prediction, step: Step, noise: Noise) -> Tensor:
        keep = step.alpha / step.next_alpha * (step.next_sigma / step.sigma) ** 2
        take = step.next_alpha * step.added / step.sigma**2
        mean = expand(keep, x) * x + expand(take, x) * seen.x0
        return mean + self._deviation(step, seen) * noise.draw(x) if step.next_sigma > 0 else mean

    def _deviation(self, step: Step, seen: Prediction) -> Tensor:
        if self.variance == "learned":
            if seen.variance is None:
                raise ValueError("variance='learned' needs a backbone that predicts it (backbone.learn_sigma)")
            return _between(step.small, step.added, seen.variance)
        return expand((step.added if self.variance == "large" else step.small).sqrt(), seen.x0)


def _between(small: Tensor, large: Tensor, fraction: Tensor) -> Tensor:
    """Return exp((fraction log large + (1 - fraction) log small) / 2): Nichol and Dhariwal 2021, eq. 15."""
    low, high = expand(small.log(), fraction), expand(large.log(), fraction)
    return torch.exp(torch.lerp(low.expand_as(fraction), high.expand_as(fraction), fraction) / 2)


@dataclass(frozen=True)
class DDIM(Ancestral):
    """x_s = alpha_s x_0 + sqrt(sigma_s^2 - e^2) eps + e z, with e = eta times ddpm's small deviation."""

    eta: float = 0.0

    def advance(self, x: Tensor, seen: Prediction, step: Step, noise: Noise) -> Tensor:
        if self.eta == 0:
            return expand(step.next_alpha, x) * seen.x0 + expand(step.next_sigma, x) * seen.eps
        deviation = self.eta * step.small.clamp(min=0).sqrt()
        toward = (step.next_sigma**2 - deviation**2).clamp(min=0).sqrt()
        x_next = expand(step.next_alpha, x) * seen.x0 + expand(toward, x) * seen.eps
        return x_next + expand(deviation, x) * noise.draw(x) if deviation > 0 else x_next

    def invert(self, denoise: Denoise, x: Tensor, schedule: Schedule, steps: int) -> Iterator[Tensor]:
        if self.eta > 0:
            return super().invert(denoise, x, schedule, steps)
        from ditzoo_diffusion.ode import Euler  # the same step, and its inverse

        return Euler(clip=self.clip).invert(denoise, x, schedule, steps)
