"""The straight path from noise to data: alpha = 1 - t, sigma = t."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ditzoo.errors import SamplingError
from ditzoo.interfaces import Prediction, Schedule
from ditzoo.predictions import combine, solve

if TYPE_CHECKING:
    from ditzoo_flow.spec import FlowSpec


class Flow(Schedule):
    """Continuous time; any number of steps."""

    def __init__(self, spec: FlowSpec) -> None:
        self.spec = spec

    def times(self, steps: int) -> Tensor:
        if steps < 1:
            raise SamplingError(f"{steps} steps asked; at least 1 is needed")
        t = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        return self.spec.shift * t / (1 + (self.spec.shift - 1) * t)

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t.double(), t.double()

    def model_time(self, t: Tensor) -> Tensor:
        return (1 - t.double() if self.spec.time_reversed else t.double()) * self.spec.time_scale

    def split(self, out: Tensor, x: Tensor, t: Tensor) -> Prediction:
        """A learned variance has no meaning on this path: channels beyond the latent's are left out, as SiT does."""
        return Prediction(*solve(self.spec.prediction, out[:, : x.shape[1]], x, *self.alpha_sigma(t)))

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        return combine(self.spec.prediction, x0, eps, *self.alpha_sigma(t))

    def draw(self, uniform: Tensor) -> Tensor:
        return uniform.double()
