"""Specs of the discrete variance-preserving schedules: a table of betas, and what the network predicts.

Step s of the literature (0 .. train_steps - 1) is our time t = (s + 1) / train_steps; t = 0 is clean data.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from ditzoo.specs import Positive, ScheduleSpec

if TYPE_CHECKING:
    from ditzoo.interfaces import Schedule


class VPSpec(ScheduleSpec):
    """Common fields. `spacing` chooses which of the trained steps are walked: `linspace` from the last to the first
    (Improved DDPM's respacing), `leading` multiples from zero (diffusers' default), `trailing` multiples from the last.
    """

    family: ClassVar[str] = "vp"
    provides: ClassVar[frozenset[str]] = frozenset({"variance-preserving"})
    free_fields: ClassVar[frozenset[str]] = frozenset({"spacing"})

    prediction: Literal["eps", "x0", "v"] = "eps"
    train_steps: Positive = 1000
    spacing: Literal["linspace", "leading", "trailing"] = "linspace"

    @property
    def max_steps(self) -> int:
        return self.train_steps

    def betas(self) -> list[float]:
        """Return the variance added by each step, `train_steps` numbers."""
        raise NotImplementedError(f"{type(self).__name__} does not say its betas")

    def build(self) -> Schedule:
        from ditzoo_diffusion.vp import DiscreteVP

        return DiscreteVP(self)


class LinearSpec(VPSpec):
    """Betas rise linearly (Ho et al. 2020); the schedule of the published DiT."""

    kind: Literal["linear"] = "linear"
    beta_start: float = Field(1e-4, gt=0, lt=1)
    beta_end: float = Field(0.02, gt=0, lt=1)

    def betas(self) -> list[float]:
        return _line(self.beta_start, self.beta_end, self.train_steps)


class ScaledLinearSpec(VPSpec):
    """Square roots of betas rise linearly (Rombach et al. 2021, latent diffusion)."""

    kind: Literal["scaled-linear"] = "scaled-linear"
    beta_start: float = Field(0.00085, gt=0, lt=1)
    beta_end: float = Field(0.012, gt=0, lt=1)

    def betas(self) -> list[float]:
        return [root**2 for root in _line(self.beta_start**0.5, self.beta_end**0.5, self.train_steps)]


class CosineSpec(VPSpec):
    """alpha^2 falls as a squared cosine (Nichol and Dhariwal 2021, eq. 17), betas at most `max_beta`."""

    kind: Literal["cosine"] = "cosine"
    offset: float = Field(0.008, ge=0)
    max_beta: float = Field(0.999, gt=0, lt=1)

    def betas(self) -> list[float]:
        def alpha_bar(t: float) -> float:
            return math.cos((t + self.offset) / (1 + self.offset) * math.pi / 2) ** 2

        n = self.train_steps
        return [min(1 - alpha_bar((i + 1) / n) / alpha_bar(i / n), self.max_beta) for i in range(n)]


def _line(first: float, last: float, count: int) -> list[float]:
    return [first + (last - first) * i / max(count - 1, 1) for i in range(count)]
