"""Which times a step draws, and what each row's error weighs: two tables, a line for each way."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ditzoo.interfaces import Schedule

if TYPE_CHECKING:
    from ditzoo.training.tables import Objective


def _stratified(uniform: Tensor, objective: Objective) -> Tensor:
    """One draw in each of B equal parts of [0, 1): the same distribution, evenly covered by every batch."""
    return (torch.arange(len(uniform), dtype=uniform.dtype) + uniform) / len(uniform)


def _logit_normal(uniform: Tensor, objective: Objective) -> Tensor:
    """Draw the sigmoid of a normal number: times in the middle more often (Esser et al. 2024, section 3.1)."""
    tiny = torch.finfo(uniform.dtype).eps
    normal = torch.special.ndtri(uniform.clamp(tiny, 1 - tiny))
    return torch.sigmoid(objective.mean + objective.deviation * normal).clamp(max=1 - tiny)


TIMES: dict[str, Callable[[Tensor, Objective], Tensor]] = {
    "uniform": lambda uniform, objective: uniform,
    "stratified": _stratified,
    "logit-normal": _logit_normal,
}


def _min_snr(snr: Tensor, native: Tensor, objective: Objective) -> Tensor:
    """Weigh the error of x_0 by min(SNR, gamma) (Hang et al. 2023), which for eps is min(SNR, gamma) / SNR."""
    return snr.clamp(max=objective.gamma) / native


def _velocity(snr: Tensor, native: Tensor, objective: Objective) -> Tensor:
    """Weigh errors as those of a velocity, eps - x_0, whatever is predicted; where sigma < alpha / 19 no more (Li and He 2025, section 4).

    With x_t fixed a velocity is off by 1 + alpha / sigma for one in x_0.
    """
    return (1 + snr.sqrt().clamp(max=19)).square() / native


# of the native prediction's squared error: from the signal-to-noise ratio and that error for an error of one in x_0
WEIGHTINGS: dict[str, Callable[[Tensor, Tensor, Objective], Tensor]] = {
    "uniform": lambda snr, native, objective: torch.ones_like(snr),
    "min-snr": _min_snr,
    "velocity": _velocity,
}


def drawn_times(uniform: Tensor, objective: Objective) -> Tensor:
    """Turn uniform numbers (B,) of a whole batch into those that `Schedule.draw` is given."""
    return TIMES[objective.times](uniform, objective)


def weights(schedule: Schedule, t: Tensor, objective: Objective) -> Tensor:
    """Return what the squared error of each row's native prediction weighs, (B,) float64.

    With x_t fixed, eps = (x_t - alpha x_0) / sigma; so a prediction p x_0 + q eps is off by (p - q alpha / sigma) for one in x_0:
    what the target, which is linear, makes of x_0 = 1 and eps = -alpha / sigma.
    """
    alpha, sigma = schedule.alpha_sigma(t)
    sigma = sigma.clamp(min=1e-6)
    off = schedule.target(torch.ones_like(t)[:, None], -(alpha / sigma)[:, None], t)[:, 0]
    return WEIGHTINGS[objective.weighting]((alpha / sigma).square(), off.square().clamp(min=1e-12), objective)
