"""Three variables in which the probability-flow ODE has no stiff part, and every solver's first order is DDIM.

With x = alpha x_0 + sigma eps, scale x by c and walk along w; then d(x / c) / dw is what the network sees:

    data    c = sigma          w = alpha / sigma            x_0           (grows without bound towards data)
    noise   c = alpha          w = sigma / alpha            eps           (Karras et al. 2022; grows without bound towards pure noise)
    path    c = alpha + sigma  w = sigma / (alpha + sigma)  eps - x_0     (the straight path's velocity; bounded at both ends)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ditzoo.interfaces import Prediction

Along = Literal["data", "noise", "path"]


@dataclass(frozen=True)
class Variable:
    """How x is scaled, what is walked along, and the slope there; alpha and sigma are float64 scalars or (steps + 1,)."""

    scale: Callable[[Tensor, Tensor], Tensor]
    walked: Callable[[Tensor, Tensor], Tensor]
    slope: Callable[[Prediction], Tensor]


VARIABLES: dict[Along, Variable] = {
    "data": Variable(lambda a, s: s, lambda a, s: a / s, lambda seen: seen.x0),
    "noise": Variable(lambda a, s: a, lambda a, s: s / a, lambda seen: seen.eps),
    "path": Variable(lambda a, s: a + s, lambda a, s: s / (a + s), lambda seen: seen.eps - seen.x0),
}
