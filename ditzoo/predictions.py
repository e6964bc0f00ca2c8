"""What a network may predict, as one table: each prediction is p * x_0 + q * eps for some p, q of alpha and sigma.

With x_t = alpha x_0 + sigma eps, a prediction out = p x_0 + q eps is solved for both:
x_0 = (q x_t - sigma out) / det, eps = (alpha out - p x_t) / det, det = alpha q - sigma p.
`v` is Salimans and Ho 2022; `velocity` is dx/dt of the straight path, noise - data (Liu et al. 2022, SD3); `velocity-to-data` is
its opposite, data - noise (SiT, Ma et al. 2024, whose time runs the other way); `score` is the gradient of log p(x_t), -eps / sigma.
A schedule may have coefficients of its own for a name, such as the velocity of a path that is not straight.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Coefficients = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

PREDICTIONS: dict[str, Coefficients] = {
    "eps": lambda alpha, sigma: (alpha * 0, alpha * 0 + 1),
    "x0": lambda alpha, sigma: (alpha * 0 + 1, alpha * 0),
    "v": lambda alpha, sigma: (-sigma, alpha),
    "velocity": lambda alpha, sigma: (alpha * 0 - 1, alpha * 0 + 1),
    "velocity-to-data": lambda alpha, sigma: (alpha * 0 + 1, alpha * 0 - 1),
    "score": lambda alpha, sigma: (alpha * 0, -1 / sigma),
}


def expand(value: Tensor, like: Tensor) -> Tensor:
    """Give a scalar, (B,), or (B, T) of frames, the axes, dtype and device of `like` (B, ...) or (B, C, T, ...), for broadcasting."""
    value = value.to(like.device, like.dtype)
    if value.dim() == 2:
        return value.reshape(len(value), 1, -1, *[1] * (like.dim() - 3))
    return value.reshape(-1, *[1] * (like.dim() - 1)) if value.dim() else value


def coefficients(prediction: str | Coefficients) -> Coefficients:
    return PREDICTIONS[prediction] if isinstance(prediction, str) else prediction


def solve(prediction: str | Coefficients, out: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Return (x_0, eps) from an output (B, C, *S) at x, given alpha and sigma (scalar or (B,), float64)."""
    p, q = coefficients(prediction)(alpha, sigma)
    det = alpha * q - sigma * p
    x0 = expand(q / det, x) * x - expand(sigma / det, x) * out
    eps = expand(alpha / det, x) * out - expand(p / det, x) * x
    return x0, eps


def combine(prediction: str | Coefficients, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return what a perfect network would put out: p x_0 + q eps."""
    p, q = coefficients(prediction)(alpha, sigma)
    return expand(p, x0) * x0 + expand(q, x0) * eps
