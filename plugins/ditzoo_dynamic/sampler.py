"""The early-exit sampler: an inner solver, whose looks a depth policy cuts short, and guidance at depths of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from ditzoo.denoiser import Denoiser
from ditzoo.interfaces import Denoise, Sampler, Schedule
from ditzoo.noise import Noise
from ditzoo.passes import Branch

if TYPE_CHECKING:
    from ditzoo_dynamic.specs import EarlyExitSpec


class EarlyExit(Sampler):
    """The steps are the inner solver's; it knows nothing of depth."""

    def __init__(self, spec: EarlyExitSpec) -> None:
        self.spec, self.inner, self.policy = spec, spec.inner.build(), spec.policy.build()

    def trajectory(self, denoise: Denoise, x: Tensor, schedule: Schedule, steps: int, noise: Noise) -> Iterator[Tensor]:
        return self.inner.trajectory(denoise, x, schedule, steps, noise)

    def evaluations(self, steps: int) -> int:
        return self.inner.evaluations(steps)

    def invert(self, denoise: Denoise, x: Tensor, schedule: Schedule, steps: int) -> Iterator[Tensor]:
        return self.inner.invert(denoise, x, schedule, steps)

    def prepare(self, denoiser: Denoiser) -> Denoiser:
        """Lay guidance's own depths over the branches, and the policy under them; the inner sampler finds both."""
        branches = denoiser.branches
        return self.inner.prepare(replace(denoiser, branches=lambda t: self.steered(t, branches(t))).under(self.policy))

    def steered(self, t: float, branches: Sequence[Branch]) -> list[Branch]:
        """Return guidance's branches with the unconditional one cut short, and one more at an exit that guides too.

        Internal guidance adds (scale - 1) (out - out at the exit), so the weights still sum to 1.
        """
        internal = self.spec.internal
        found = [replace(one, depth=self.spec.null_exit) if one.name == "null" and one.depth is None else one for one in branches]
        if internal is None or not internal.interval[0] <= t <= internal.interval[1]:
            return found
        more, first = internal.scale - 1, found[0]
        return [
            replace(first, weight=first.weight + more),
            *found[1:],
            Branch(first.cond, -more, internal.exit, first.channels, "internal"),
        ]
