"""The paths of flow matching; time is continuous, and any number of steps can be walked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ditzoo.interfaces import Schedule, Spacing
from ditzoo.paths import Path
from ditzoo.predictions import Coefficients

if TYPE_CHECKING:
    from ditzoo_flow.spec import PathSpec


class Even(Spacing):
    """(1, ..., least, 0), evenly but for the last."""

    def __init__(self, least: float) -> None:
        self.least = least

    def times(self, schedule: Schedule, steps: int) -> Tensor:
        noisy = torch.linspace(1, self.least, steps, dtype=torch.float64)
        return torch.cat([noisy, noisy.new_zeros(1)])


class Flow(Path):
    """The straight path from noise to data: alpha = 1 - t, sigma = t."""

    own: ClassVar[dict[str, Coefficients]] = {}

    def __init__(self, spec: PathSpec) -> None:
        super().__init__(self.own.get(spec.prediction, spec.prediction), spec.spacing.build() if spec.spacing else None)
        self.spec = spec

    def times(self, steps: int) -> Tensor:
        t = super().times(steps)
        return self.spec.shift * t / (1 + (self.spec.shift - 1) * t)

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t.double(), t.double()

    def time_at(self, half: Tensor) -> Tensor:
        return torch.sigmoid(-half.double())

    def model_time(self, t: Tensor) -> Tensor:
        return (1 - t.double() if self.spec.time_reversed else t.double()) * self.spec.time_scale

    def draw(self, uniform: Tensor) -> Tensor:
        return uniform.double()


class GVP(Flow):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2); dx/dt = pi / 2 (alpha eps - sigma x_0)."""

    own: ClassVar[dict[str, Coefficients]] = {
        "velocity": lambda alpha, sigma: (-math.pi / 2 * sigma, math.pi / 2 * alpha),
        "velocity-to-data": lambda alpha, sigma: (math.pi / 2 * sigma, -math.pi / 2 * alpha),
    }

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        angle = t.double() * math.pi / 2
        return angle.cos().where(t < 1, 0.0), angle.sin()

    def time_at(self, half: Tensor) -> Tensor:
        return torch.atan(torch.exp(-half.double())) * 2 / math.pi
