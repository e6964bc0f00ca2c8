"""Specs of the discrete variance-preserving schedules: a table of betas, and what the network predicts.

Step s of the literature (0 .. train_steps - 1) is our time t = (s + 1) / train_steps; t = 0 is clean data.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ditzoo.specs import Positive, ScheduleSpec, SpacingSlot
from ditzoo_diffusion.spacings import LinspaceSpec

if TYPE_CHECKING:
    from ditzoo.interfaces import Schedule


MODERATE = 1e-6  # alpha^2 at the noisiest step; below it a step along sigma / alpha is too long for a second look, and for fp32


class VPSpec(ScheduleSpec):
    """Common fields. `spacing` chooses which of the trained steps are walked: a part of its own, such as `linspace`, `trailing`, `karras`.

    `zero_snr` rescales the betas so that the last step is pure noise (Lin et al. 2023, algorithm 1); eps tells nothing of the data there.
    """

    family: ClassVar[str] = "vp"
    provides: ClassVar[frozenset[str]] = frozenset({"variance-preserving", "discrete-time"})
    free_fields: ClassVar[frozenset[str]] = frozenset({"spacing"})

    prediction: Literal["eps", "x0", "v", "velocity", "velocity-to-data", "score"] = "eps"
    train_steps: Positive = 1000
    spacing: SpacingSlot = LinspaceSpec()
    zero_snr: bool = False

    @property
    def provides_now(self) -> frozenset[str]:
        if self.zero_snr:
            return self.provides
        last = math.prod(1 - beta for beta in self.betas())
        return self.provides | {"signal-at-start"} | ({"moderate-noise"} if last > MODERATE else set())

    @classmethod
    def examples(cls) -> dict[str, dict[str, Any]]:
        return {"": {}, "zero SNR": {"zero_snr": True, "prediction": "v"}}

    @model_validator(mode="after")
    def _tells_of_data(self) -> Self:
        if self.zero_snr and self.prediction in ("eps", "score"):
            raise ValueError(f"zero_snr begins in pure noise, where {self.prediction} tells nothing of the data; set prediction=v")
        return self

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
        return list(_cosine(self.offset, self.max_beta, self.train_steps))


class EDMSpec(ScheduleSpec):
    """The levels of Karras et al. 2022, sigma / alpha from `sigma_max` down to `sigma_min`, on a path scaled to deviation `sigma_data`:
    alpha = cos(pi t / 2), sigma = sigma_data sin(pi t / 2), so sigma / alpha = sigma_data tan(pi t / 2).

    `edm` is that paper's target F: with it and this scale, the network is preconditioned as there (but for inputs, which are not divided
    by `sigma_data`). Times in training are log-normal in sigma / alpha, and the network is fed `time_scale` ln(sigma / alpha) / 4.
    """

    kind: Literal["edm"] = "edm"
    family: ClassVar[str] = "edm"
    provides: ClassVar[frozenset[str]] = frozenset({"signal-at-start", "moderate-noise"})
    free_fields: ClassVar[frozenset[str]] = frozenset({"spacing", "sigma_min", "sigma_max"})

    prediction: Literal["edm", "eps", "x0", "v", "velocity", "velocity-to-data", "score"] = "edm"
    sigma_data: float = Field(0.5, gt=0)
    sigma_min: float = Field(0.002, gt=0)
    sigma_max: float = Field(80.0, gt=0)
    log_mean: float = -1.2
    log_deviation: float = Field(1.2, gt=0)
    time_scale: float = Field(1000.0, gt=0)
    spacing: SpacingSlot | None = Field(None, description="which times are walked; None: Karras' with rho 7, from sigma_max to sigma_min")

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min={self.sigma_min:g} is not below sigma_max={self.sigma_max:g}")
        return self

    def build(self) -> Schedule:
        from ditzoo_diffusion.edm import EDM

        return EDM(self)


@lru_cache(maxsize=16)
def _cosine(offset: float, most: float, count: int) -> tuple[float, ...]:
    """Return betas under a squared cosine, remembered: specs are made anew for each request, and ask for them more than once."""
    levels = [math.cos((i / count + offset) / (1 + offset) * math.pi / 2) ** 2 for i in range(count + 1)]
    return tuple(min(1 - after / before, most) for before, after in pairwise(levels))


def _line(first: float, last: float, count: int) -> list[float]:
    return [first + (last - first) * i / max(count - 1, 1) for i in range(count)]
