"""ddpm and ddim for any schedule given by alpha and sigma.

For a step from t to s < t, with a = alpha_t / alpha_s and d^2 = sigma_t^2 - a^2 sigma_s^2 (the noise that the step adds):
the posterior q(x_s | x_t, x_0) has mean a sigma_s^2 / sigma_t^2 x_t + alpha_s d^2 / sigma_t^2 x_0 and variance
d^2 sigma_s^2 / sigma_t^2 (Kingma et al. 2021, appendix A; for variance-preserving paths eq. 6-7 of Ho et al. 2020).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ditzoo.interfaces import Denoise, Prediction, Sampler, Schedule
from ditzoo.noise import Noise
from ditzoo.predictions import expand


def clipped(prediction: Prediction, x: Tensor, alpha: Tensor, sigma: Tensor, clip: float | None) -> Prediction:
    """Bound x_0 to [-clip, clip] and make eps consistent with it."""
    if clip is None:
        return prediction
    x0 = prediction.x0.clamp(-clip, clip)
    return Prediction(x0, (x - expand(alpha, x) * x0) / expand(sigma, x), prediction.variance)


@dataclass(frozen=True)
class DDPM(Sampler):
    """Draws x_s from the posterior around the predicted x_0; no noise in the last step."""

    variance: str
    clip: float | None = None

    def trajectory(self, denoise: Denoise, x: Tensor, schedule: Schedule, steps: int, noise: Noise) -> Iterator[Tensor]:
        times = schedule.times(steps)
        alphas, sigmas = schedule.alpha_sigma(times)
        for i in range(steps):
            seen = clipped(denoise(x, times[i]), x, alphas[i], sigmas[i], self.clip)
            ratio = alphas[i] / alphas[i + 1]
            added = sigmas[i] ** 2 - (ratio * sigmas[i + 1]) ** 2
            keep, take = ratio * (sigmas[i + 1] / sigmas[i]) ** 2, alphas[i + 1] * added / sigmas[i] ** 2
            x = expand(keep, x) * x + expand(take, x) * seen.x0
            if sigmas[i + 1] > 0:
                small = added * (sigmas[i + 1] / sigmas[i]) ** 2
                x = x + self._deviation(small, added, seen) * noise.draw(x)
            yield x

    def _deviation(self, small: Tensor, large: Tensor, seen: Prediction) -> Tensor:
        if self.variance == "learned":
            if seen.variance is None:
                raise ValueError("variance='learned' needs a backbone that predicts it (backbone.learn_sigma)")
            return _between(small, large, seen.variance)
        return expand((large if self.variance == "large" else small).sqrt(), seen.x0)


def _between(small: Tensor, large: Tensor, fraction: Tensor) -> Tensor:
    """Return exp((fraction log large + (1 - fraction) log small) / 2): Nichol and Dhariwal 2021, eq. 15."""
    low, high = expand(small.log(), fraction), expand(large.log(), fraction)
    return torch.exp(torch.lerp(low.expand_as(fraction), high.expand_as(fraction), fraction) / 2)


@dataclass(frozen=True)
class DDIM(Sampler):
    """x_s = alpha_s x_0 + sqrt(sigma_s^2 - e^2) eps + e z, with e = eta times ddpm's small deviation."""

    eta: float = 0.0
    clip: float | None = None

    def trajectory(self, denoise: Denoise, x: Tensor, schedule: Schedule, steps: int, noise: Noise) -> Iterator[Tensor]:
        times = schedule.times(steps)
        alphas, sigmas = schedule.alpha_sigma(times)
        for i in range(steps):
            seen = clipped(denoise(x, times[i]), x, alphas[i], sigmas[i], self.clip)
            deviation = torch.zeros_like(alphas[i])
            if self.eta:
                added = sigmas[i] ** 2 - (alphas[i] / alphas[i + 1] * sigmas[i + 1]) ** 2
                deviation = self.eta * (sigmas[i + 1] / sigmas[i]) * added.sqrt()
            toward = (sigmas[i + 1] ** 2 - deviation**2).clamp(min=0).sqrt()
            x = expand(alphas[i + 1], x) * seen.x0 + expand(toward, x) * seen.eps
            if self.eta and sigmas[i + 1] > 0:
                x = x + expand(deviation, x) * noise.draw(x)
            yield x
