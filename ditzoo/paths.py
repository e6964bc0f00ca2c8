"""What most schedules have in common: a path given by alpha and sigma, a native prediction p x_0 + q eps, and a spacing of steps."""

from __future__ import annotations

import torch
from torch import Tensor

from ditzoo.errors import SamplingError
from ditzoo.interfaces import Prediction, Schedule, Spacing
from ditzoo.predictions import Coefficients, combine, solve


class Path(Schedule):
    """Subclasses give `alpha_sigma`, `model_time` and `draw`. `prediction` is a name of `PREDICTIONS`, or coefficients of their own;
    without a spacing the times walked are even.
    """

    def __init__(self, prediction: str | Coefficients, spacing: Spacing | None = None) -> None:
        self.prediction, self.spacing = prediction, spacing

    def times(self, steps: int) -> Tensor:
        most = self.count
        if steps < 1 or (most is not None and steps > most):
            known = "at least 1 is needed" if most is None else f"the schedule has 1 to {most}; set steps within that"
            raise SamplingError(f"{steps} steps asked; {known}")
        return torch.linspace(1, 0, steps + 1, dtype=torch.float64) if self.spacing is None else self.spacing.times(self, steps)

    def split(self, out: Tensor, x: Tensor, t: Tensor) -> Prediction:
        """Channels beyond the latent's, a learned variance, have no meaning on a path in general and are left out, as SiT does."""
        return Prediction(*solve(self.prediction, out[:, : x.shape[1]], x, *self.alpha_sigma(t)))

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        return combine(self.prediction, x0, eps, *self.alpha_sigma(t))
