"""A variance-preserving schedule from a table of betas: alpha^2 + sigma^2 = 1 at every t.

Between the trained steps log alpha^2 is interpolated linearly, so t is continuous for whoever wants it to be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ditzoo.errors import SamplingError
from ditzoo.interfaces import Prediction, Schedule
from ditzoo.predictions import combine, solve

if TYPE_CHECKING:
    from ditzoo_diffusion.schedules import VPSpec


class DiscreteVP(Schedule):
    """`train_steps` noise levels; index k = t * train_steps, k = 0 is clean, k = s + 1 is step s of the literature."""

    def __init__(self, spec: VPSpec) -> None:
        self.spec = spec
        betas = torch.tensor(spec.betas(), dtype=torch.float64, device="cpu")
        self.log_alpha_bar = torch.cat([betas.new_zeros(1), torch.log1p(-betas).cumsum(0)])  # (T + 1,)

    @property
    def count(self) -> int:
        return self.spec.train_steps

    def times(self, steps: int) -> Tensor:
        if not 1 <= steps <= self.count:
            raise SamplingError(f"{steps} steps asked of a schedule that has 1 to {self.count}; set steps within that")
        return torch.cat([(self._walked(steps) + 1) / self.count, torch.zeros(1, dtype=torch.float64)])

    def _walked(self, steps: int) -> Tensor:
        """Return the trained steps to walk, falling, (steps,) float64."""
        if steps == 1:
            return torch.tensor([self.count - 1], dtype=torch.float64)
        if self.spec.spacing == "linspace":
            return torch.linspace(self.count - 1, 0, steps, dtype=torch.float64).round()
        if self.spec.spacing == "leading":
            return (torch.arange(steps, dtype=torch.float64) * (self.count // steps)).flip(0)
        return torch.arange(self.count, 0, -self.count / steps, dtype=torch.float64)[:steps].round() - 1

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        index = (t.double() * self.count).clamp(0, self.count)
        below = (index + 1e-9).floor().long().clamp(max=self.count - 1)  # a time that is a step but for rounding is that step
        table = self.log_alpha_bar.to(t.device)
        log_alpha_bar = torch.lerp(table[below], table[below + 1], (index - below).clamp(min=0))
        return (log_alpha_bar / 2).exp(), (-torch.expm1(log_alpha_bar)).sqrt()

    def model_time(self, t: Tensor) -> Tensor:
        return (t.double() * self.count - 1).clamp(min=0)

    def split(self, out: Tensor, x: Tensor, t: Tensor) -> Prediction:
        channels = x.shape[1]
        x0, eps = solve(self.spec.prediction, out[:, :channels], x, *self.alpha_sigma(t))
        learned = out.shape[1] == 2 * channels
        return Prediction(x0, eps, (out[:, channels:] + 1) / 2 if learned else None)

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        return combine(self.spec.prediction, x0, eps, *self.alpha_sigma(t))

    def draw(self, uniform: Tensor) -> Tensor:
        return ((uniform.double() * self.count).floor() + 1) / self.count
