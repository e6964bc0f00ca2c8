"""The spacings at work. A discrete schedule of T steps has its trained step s at t = (s + 1) / T; t = 0 is clean data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ditzoo.errors import SamplingError
from ditzoo.interfaces import Schedule, Spacing

if TYPE_CHECKING:
    from ditzoo_diffusion.spacings import BetaSpec, KarrasSpec

FINE = 200_000  # cells of the table that a distribution is inverted by
HIGHEST = 160.0  # sigma / alpha that Karras' levels begin with at most: above it there is nothing to see, and steps would be spent there
FIRST = 1e-3  # where a continuous path is taken to end, for spacings that need an end above 0


def _closed(walked: Tensor, count: int) -> Tensor:
    """Turn trained steps, falling, into times, and end in clean data."""
    return torch.cat([(walked + 1) / count, torch.zeros(1, dtype=torch.float64)])


class Linspace(Spacing):
    def times(self, schedule: Schedule, steps: int) -> Tensor:
        count = schedule.count
        if count is None:
            return torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        if steps == 1:
            return _closed(torch.tensor([count - 1.0], dtype=torch.float64), count)
        return _closed(torch.linspace(count - 1, 0, steps, dtype=torch.float64).round(), count)


class Trailing(Spacing):
    def times(self, schedule: Schedule, steps: int) -> Tensor:
        count = schedule.count
        if count is None:
            return torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        return _closed(torch.arange(count, 0, -count / steps, dtype=torch.float64)[:steps].round() - 1, count)


class Leading(Spacing):
    def times(self, schedule: Schedule, steps: int) -> Tensor:
        count = schedule.count
        if count is None:
            raise SamplingError(
                "spacing 'leading' walks trained steps, and this schedule's time is continuous; set schedule.spacing=linspace"
            )
        if steps == 1:
            return _closed(torch.tensor([count - 1.0], dtype=torch.float64), count)
        return _closed((torch.arange(steps, dtype=torch.float64) * (count // steps)).flip(0), count)


class Karras(Spacing):
    def __init__(self, spec: KarrasSpec) -> None:
        self.spec = spec

    def times(self, schedule: Schedule, steps: int) -> Tensor:
        first = FIRST if schedule.count is None else 1 / schedule.count
        alpha, sigma = schedule.alpha_sigma(torch.tensor([1.0, first], dtype=torch.float64))
        ratios = sigma / alpha
        low = ratios[1] if self.spec.sigma_min is None else torch.tensor(self.spec.sigma_min, dtype=torch.float64)
        high = ratios[0].clamp(max=HIGHEST)
        high = high if self.spec.sigma_max is None else torch.tensor(self.spec.sigma_max, dtype=torch.float64)
        if steps == 1:
            levels = high[None]
        else:
            rest = torch.linspace(0, 1, steps, dtype=torch.float64)
            levels = torch.lerp(high ** (1 / self.spec.rho), low ** (1 / self.spec.rho), rest) ** self.spec.rho
        return torch.cat([schedule.time_at(-levels.log()), torch.zeros(1, dtype=torch.float64)])


class BetaQuantiles(Spacing):
    def __init__(self, spec: BetaSpec) -> None:
        self.spec = spec

    def times(self, schedule: Schedule, steps: int) -> Tensor:
        first = 0.0 if schedule.count is None else 1 / schedule.count
        shares = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        if schedule.count is not None:  # the last trained step is walked, and clean data comes after it
            shares = torch.linspace(1, 0, steps, dtype=torch.float64) if steps > 1 else shares[:1]
        times = first + (1 - first) * self._quantiles(shares)
        return times if schedule.count is None else torch.cat([times, torch.zeros(1, dtype=torch.float64)])

    def _quantiles(self, shares: Tensor) -> Tensor:
        """Invert the distribution on a table; with x = sin^2 of an angle its density has no pole for a and b above 0.5."""
        angle = (torch.arange(FINE, dtype=torch.float64) + 0.5) / FINE * torch.pi / 2
        log_density = (2 * self.spec.a - 1) * angle.sin().log() + (2 * self.spec.b - 1) * angle.cos().log()
        below = torch.cat([torch.zeros(1, dtype=torch.float64), log_density.exp().cumsum(0)])
        below = below / below[-1]
        cell = torch.searchsorted(below, shares.clamp(0, 1)).clamp(1, FINE)
        inside = (shares - below[cell - 1]) / (below[cell] - below[cell - 1])
        return ((cell - 1 + inside) / FINE * torch.pi / 2).sin() ** 2
