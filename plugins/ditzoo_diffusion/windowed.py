"""MultiDiffusion: one look at a whole picture or clip is the weighed mean of looks through windows that overlap.

Shapes: B rows, C channels, S the axes of a latent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import torch
from torch import Tensor

from ditzoo.denoiser import Denoiser
from ditzoo.errors import SamplingError
from ditzoo.interfaces import Denoise, Evaluate, Sampler, Schedule
from ditzoo.noise import Noise
from ditzoo.passes import Branch
from ditzoo.specs import shape
from ditzoo.windows import spread

Place = tuple[slice, ...]  # of a window, a slice for each axis of S


@dataclass(frozen=True)
class MultiDiffusion(Sampler):
    """The steps are the inner sampler's; each window has what evaluates its looks, with what a policy remembers of them."""

    inner: Sampler
    window: tuple[int, ...]
    overlap: float

    def trajectory(self, denoise: Denoise, x: Tensor, schedule: Schedule, steps: int, noise: Noise) -> Iterator[Tensor]:
        return self.inner.trajectory(denoise, x, schedule, steps, noise)

    def evaluations(self, steps: int) -> int:
        return self.inner.evaluations(steps)

    def invert(self, denoise: Denoise, x: Tensor, schedule: Schedule, steps: int) -> Iterator[Tensor]:
        if len(places := self.places(x.shape[2:])) > 1:
            raise SamplingError(
                f"sampler 'multidiffusion' is not walked backwards through windows, and {shape(x.shape[2:])} takes {len(places)}; "
                f"give what fits into sampler.window={shape(self.window)}, or set sampler.kind to the solver"
            )
        return self.inner.invert(denoise, x, schedule, steps)

    def prepare(self, denoiser: Denoiser) -> Denoiser:
        whole = self.inner.prepare(denoiser)
        return replace(whole, evaluate=Windows(self, whole))

    def places(self, size: Sequence[int]) -> list[Place]:
        """Return the windows on a latent of `size`: as many as are needed for each two to share their overlap."""
        axes = []
        for axis, extent in enumerate(size):
            length = self.window[axis] if axis < len(self.window) else extent
            starts = spread(extent, length, min(round(length * self.overlap), length - 1)) if length < extent else [0]
            axes.append([slice(start, min(start + length, extent)) for start in starts])
        return list(product(*axes))


@dataclass
class Windows:
    """What evaluates the looks of one run, window by window."""

    sampler: MultiDiffusion
    denoiser: Denoiser
    own: dict[tuple[tuple[int, int], ...], Evaluate] = field(default_factory=dict)

    def __call__(self, branches: Sequence[Branch], x: Tensor, t: Tensor) -> list[Tensor]:
        """Return the native prediction of each branch at x (B, C, *S), at scalar t or at the times of its frames (1, T).

        A window weighs less the nearer a cell is to its border, evenly on each axis, so that nothing jumps where one ends.
        """
        places = self.sampler.places(x.shape[2:])
        if len(places) == 1:
            return self.outputs(places[0])(branches, x, t)
        totals: list[Tensor] = []
        weights = x.new_zeros(x.shape[2:])
        for place in places:
            at = (slice(None), slice(None), *place)
            tent = _tent([part.stop - part.start for part in place]).to(x)
            weights[place] += tent
            found = self.outputs(place)(branches, x[at], t[:, place[0]] if t.dim() else t)
            totals = totals or [out.new_zeros(*out.shape[:2], *x.shape[2:]) for out in found]
            for total, out in zip(totals, found, strict=True):
                total[at] += out * tent
        return [total / weights for total in totals]

    def outputs(self, place: Place) -> Evaluate:
        key = tuple((part.start, part.stop) for part in place)
        if key not in self.own:
            given = None if self.denoiser.given is None else self.denoiser.given.within(place)
            self.own[key] = replace(self.denoiser, given=given).outputs
        return self.own[key]


def _tent(lengths: Sequence[int]) -> Tensor:
    """Return weights (*S) that grow by one a cell from each border to the midst, multiplied over axes."""
    tent = torch.ones(())
    for length in lengths:
        up = torch.arange(1, length + 1, dtype=torch.float32)
        tent = tent[..., None] * torch.minimum(up, up.flip(0))
    return tent
