"""A variance-preserving schedule from a table of betas: alpha^2 + sigma^2 = 1 at every t.

Between the trained steps log alpha^2 is interpolated linearly, so t is continuous for whoever wants it to be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ditzoo.interfaces import Prediction
from ditzoo.paths import Path

if TYPE_CHECKING:
    from ditzoo_diffusion.schedules import VPSpec


class DiscreteVP(Path):
    """`train_steps` noise levels; index k = t * train_steps, k = 0 is clean, k = s + 1 is step s of the literature."""

    def __init__(self, spec: VPSpec) -> None:
        super().__init__(spec.prediction, spec.spacing.build())
        self.steps = spec.train_steps
        betas = torch.tensor(spec.betas(), dtype=torch.float64, device="cpu")
        levels = torch.log1p(-betas).cumsum(0)
        self.log_alpha_bar = torch.cat([betas.new_zeros(1), _to_pure_noise(levels) if spec.zero_snr else levels])  # (T + 1,)
        self.to_nothing = bool(self.log_alpha_bar.isinf().any())

    @property
    def count(self) -> int:
        return self.steps

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        index = (t.double() * self.count).clamp(0, self.count)
        below = (index + 1e-9).floor().long().clamp(max=self.count - 1)  # a time that is a step but for rounding is that step
        table = self.log_alpha_bar.to(t.device)
        inside = (index - below).clamp(min=0)
        here, after = table[below], table[below + 1]
        log_alpha_bar = torch.lerp(here, after, inside)
        if self.to_nothing:  # alpha falls evenly where the next step is pure noise
            log_alpha_bar = torch.where(after.isinf(), here + 2 * torch.log1p(-inside), log_alpha_bar)
        return (log_alpha_bar / 2).exp(), (-torch.expm1(log_alpha_bar)).sqrt()

    def time_at(self, half: Tensor) -> Tensor:
        wanted, table = -torch.nn.functional.softplus(-2 * half.double()), self.log_alpha_bar.to(half.device)
        cell = torch.searchsorted(-table, -wanted).clamp(1, self.count)
        low, high = table[cell - 1], table[cell]
        to_nothing = -torch.expm1((wanted - low) / 2)
        inside = torch.where(high.isinf(), to_nothing, (wanted - low) / (high - low)).clamp(0, 1)
        return (cell - 1 + inside) / self.count

    def model_time(self, t: Tensor) -> Tensor:
        return (t.double() * self.count - 1).clamp(min=0)

    def split(self, out: Tensor, x: Tensor, t: Tensor) -> Prediction:
        channels = x.shape[1]
        seen = super().split(out, x, t)
        return seen if out.shape[1] == channels else Prediction(seen.x0, seen.eps, (out[:, channels:] + 1) / 2)

    def draw(self, uniform: Tensor) -> Tensor:
        return ((uniform.double() * self.count).floor() + 1) / self.count


def _to_pure_noise(log_alpha_bar: Tensor) -> Tensor:
    """Shift and scale alpha so that the last is 0 and the first stays (Lin et al. 2023, algorithm 1)."""
    alpha = (log_alpha_bar / 2).exp()
    return 2 * ((alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])).log()
