"""The schedule of Karras et al. 2022 as a path of constant deviation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ditzoo.paths import Path
from ditzoo_diffusion.spacings import KarrasSpec

if TYPE_CHECKING:
    from ditzoo_diffusion.schedules import EDMSpec


class EDM(Path):
    """With the angle a = pi t / 2: alpha = cos a, sigma = s sin a for data of deviation s; F = sin a x_0 / s - cos a eps."""

    def __init__(self, spec: EDMSpec) -> None:
        scale = spec.sigma_data

        def own(alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
            return sigma / scale**2, -alpha

        spacing = spec.spacing or KarrasSpec(sigma_min=spec.sigma_min, sigma_max=spec.sigma_max)
        super().__init__(own if spec.prediction == "edm" else spec.prediction, spacing.build())
        self.spec = spec

    def start(self, noise: Tensor, t: Tensor) -> Tensor:
        """Noise of the level at t: what signal there is left is not worth a draw."""
        return noise * float(self.alpha_sigma(t)[1])

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        angle = t.double() * math.pi / 2
        return angle.cos().clamp(min=0), self.spec.sigma_data * angle.sin()

    def time_at(self, half: Tensor) -> Tensor:
        return torch.atan(torch.exp(-half.double()) / self.spec.sigma_data) * 2 / math.pi

    def model_time(self, t: Tensor) -> Tensor:
        alpha, sigma = self.alpha_sigma(t)
        return self.spec.time_scale * (sigma / alpha).clamp(1e-8, 1e8).log() / 4

    def draw(self, uniform: Tensor) -> Tensor:
        tiny = torch.finfo(torch.float64).eps
        normal = torch.special.ndtri(uniform.double().clamp(tiny, 1 - tiny))
        level = (self.spec.log_mean + self.spec.log_deviation * normal).exp()
        return torch.atan(level / self.spec.sigma_data) * 2 / math.pi
