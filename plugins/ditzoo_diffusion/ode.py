"""Solvers of the probability-flow ODE that look once or twice a step: euler, heun, ab2; for any schedule given by alpha and sigma.

A step from t to s along a variable w is x_s = (c_s / c_t) x_t + c_s (w_s - w_t) slope: with the slope at t it is DDIM (Song et al.
2020) whatever the variable. The step that ends in clean data is always that one: there is no noise left to look at after it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from ditzoo.errors import SamplingError
from ditzoo.interfaces import Denoise, Prediction, Sampler, Schedule
from ditzoo.noise import Noise
from ditzoo.predictions import expand
from ditzoo_diffusion.along import VARIABLES, Along
from ditzoo_diffusion.stochastic import clipped

MOST_LOOKS, FOUND, TOLERATED = 60, 1e-5, 1e-2  # of undoing a step: root mean squares of what a repetition still changes


class Walk:
    """One run's grid: x at each time, and steps between neighbours."""

    def __init__(self, denoise: Denoise, schedule: Schedule, steps: int, along: Along, clip: float | None) -> None:
        self.denoise, self.variable, self.clip = denoise, VARIABLES[along], clip
        self.times = schedule.times(steps)
        self.alphas, self.sigmas = schedule.alpha_sigma(self.times)
        self.scales = self.variable.scale(self.alphas, self.sigmas)
        self.walked = self.variable.walked(self.alphas, self.sigmas)

    def look(self, x: Tensor, i: int) -> Tensor:
        """Return the slope at point i of the grid."""
        return self.variable.slope(self.see(x, i))

    def see(self, x: Tensor, i: int) -> Prediction:
        return clipped(self.denoise(x, self.times[i]), x, self.alphas[i], self.sigmas[i], self.clip)

    def last(self, i: int) -> bool:
        """Say whether step i ends in clean data."""
        return not self.sigmas[i + 1] > 0

    def length(self, i: int) -> Tensor:
        return self.walked[i + 1] - self.walked[i]

    def step(self, x: Tensor, i: int, slope: Tensor) -> Tensor:
        return expand(self.scales[i + 1] / self.scales[i], x) * x + expand(self.scales[i + 1] * self.length(i), x) * slope

    def finish(self, x: Tensor, i: int) -> Tensor:
        """Make step i, which ends in clean data, by the data seen at its beginning."""
        return expand(self.alphas[i + 1], x) * self.see(x, i).x0


@dataclass(frozen=True)
class OnGrid(Sampler):
    """A solver that goes from one time of the schedule to the next."""

    along: Along = "data"
    clip: float | None = None

    def trajectory(self, denoise: Denoise, x: Tensor, schedule: Schedule, steps: int, noise: Noise) -> Iterator[Tensor]:
        walk, slopes = Walk(denoise, schedule, steps, self.along, self.clip), list[Tensor]()
        for i in range(steps):
            x = walk.finish(x, i) if walk.last(i) else walk.step(x, i, self.slope(walk, x, i, slopes))
            yield x

    @abstractmethod
    def slope(self, walk: Walk, x: Tensor, i: int, earlier: list[Tensor]) -> Tensor:
        """Return the slope of step i from x; `earlier` are those that this method has put there, oldest first."""


class Euler(OnGrid):
    """First order, and the same along every variable: DDIM without noise. It can be walked backwards."""

    def slope(self, walk: Walk, x: Tensor, i: int, earlier: list[Tensor]) -> Tensor:
        return walk.look(x, i)

    def invert(self, denoise: Denoise, x: Tensor, schedule: Schedule, steps: int) -> Iterator[Tensor]:
        if self.clip is not None:
            raise SamplingError(f"what sampler.clip={self.clip:g} cuts off cannot be found again; set sampler.clip=null, or leave it out")
        walk = Walk(denoise, schedule, steps, "path", None)
        for i in reversed(range(steps)):
            x = _undone(walk, x, i)
            yield x


def _undone(walk: Walk, x: Tensor, i: int) -> Tensor:
    """Return the x at point i that step i takes to this x: z_i = z_(i + 1) - length * slope(z_i) as a fixed point, found by repetition.

    Along the straight path the step to clean data is one like the others. A repetition that moves farther than the one before is halved.
    """
    scale, z_next, length = expand(walk.scales[i], x), x / expand(walk.scales[i + 1], x), expand(walk.length(i), x)
    z, moved, pace = z_next, float("inf"), 1.0
    for _ in range(MOST_LOOKS):
        change = z_next - length * walk.look(z * scale, i) - z
        size = float(change.flatten(1).square().mean(1).sqrt().max())
        if size > moved:
            pace = max(pace / 2, 1 / 16)
        z, moved = z + pace * change, size
        if size < FOUND:
            break
    if moved > TOLERATED:
        raise SamplingError(
            f"the step from t={float(walk.times[i]):.3g} cannot be undone: {MOST_LOOKS} looks leave {moved:.2g}; "
            f"take more steps, or less guidance"
        )
    return z * scale


class Heun(OnGrid):
    """Second order: the mean of the slopes at both ends of the step, the far one at an Euler step's end."""

    def evaluations(self, steps: int) -> int:
        return 2 * steps - 1

    def slope(self, walk: Walk, x: Tensor, i: int, earlier: list[Tensor]) -> Tensor:
        here = walk.look(x, i)
        return (here + walk.look(walk.step(x, i, here), i + 1)) / 2


class AB2(OnGrid):
    """Second order with one look a step: Adams and Bashforth's two-step rule, for steps of unlike length; the first step is Euler's."""

    def slope(self, walk: Walk, x: Tensor, i: int, earlier: list[Tensor]) -> Tensor:
        here = walk.look(x, i)
        earlier.append(here)
        if i == 0:
            return here
        ratio = float(walk.length(i) / walk.length(i - 1))
        return (1 + ratio / 2) * here - ratio / 2 * earlier[i - 1]
