"""Looks that run the first blocks, and guess what the others would add: from looks that ran them all, or from another branch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ditzoo.errors import SamplingError
from ditzoo.interfaces import DepthPolicy, Evaluate, Residual, Stream
from ditzoo.passes import Branch, Passes


@dataclass(frozen=True)
class Residuals(DepthPolicy):
    """See the spec; what a run remembers is in its own `Memory`."""

    prefix: int
    every: int
    reach: float
    warmup: int
    whole_above: float
    null_every: int

    def follow(self, passes: Passes) -> Evaluate:
        crossed = [stage for stage in passes.backbone.stages if self.prefix < stage < passes.backbone.depth]
        if crossed:
            raise SamplingError(
                f"the backbone's stream changes its layout after block {crossed[-1]}, so nothing before it can be added to what comes "
                f"after; set sampler.policy.prefix to at least {crossed[-1]}"
            )
        return _Run(self, passes)


class Seen(NamedTuple):
    """A residual at a time: what the blocks after the prefix added, or by how much other branches' residuals differ from the first's."""

    t: float
    residual: Residual


@dataclass
class _Run:
    """The looks of one run; of its free branches the two last residuals, and their two last differences from the first branch's."""

    policy: Residuals
    passes: Passes
    looks: int = 0
    guessed: int = 0  # looks since the last whole one
    halved: int = 0  # whole looks of the first branch since the last of all
    names: tuple[str, ...] = ()
    history: list[Seen] = field(default_factory=list)
    apart: list[Seen] = field(default_factory=list)

    def __call__(self, branches: Sequence[Branch], x: Tensor, t: Tensor) -> list[Tensor]:
        free = [index for index, branch in enumerate(branches) if branch.depth is None]
        fixed = [index for index, branch in enumerate(branches) if branch.depth is not None]
        names = tuple(branches[index].name for index in free)
        if names != self.names:  # guidance's interval begins or ends: these rows have no past
            self.names, self.history, self.apart = names, [], []
        outputs = dict(zip(fixed, self.passes.together([branches[index] for index in fixed], x, t), strict=True)) if fixed else {}
        stream = self._stream([branches[index] for index in free], x, t)
        read = self.passes.read(stream, None)
        outputs |= dict(zip(free, read.split(len(x)), strict=True))
        self.looks += 1
        return [outputs[index] for index in range(len(branches))]

    def _stream(self, branches: Sequence[Branch], x: Tensor, t: Tensor) -> Stream:
        """Return the stream after all blocks, run or guessed."""
        policy, latest = self.policy, float(t.max())
        early = self.passes.run(self.passes.begin(x, t, [branch.cond for branch in branches]), 0, policy.prefix)
        whole = self.looks < policy.warmup or latest > policy.whole_above or self.guessed == policy.every - 1
        if not whole and self.history:
            self.guessed += 1
            return early + self._extrapolated(self.history, latest)
        late, added = self._whole(early, len(x), latest)
        self.history, self.guessed = [*self.history[-1:], Seen(latest, added)], 0
        return late

    def _whole(self, early: Stream, batch: int, t: float) -> tuple[Stream, Residual]:
        """Return the stream after all blocks and what they added; the first branch runs them, the others where they are due to be seen."""
        policy, depth = self.policy, self.passes.backbone.depth
        others = len(early.tokens) // batch - 1
        if not others or not self.apart or t > policy.whole_above or self.halved == policy.null_every - 1:
            late, self.halved = self.passes.run(early, policy.prefix, depth), 0
            added = late - early
            if others and policy.null_every > 1:
                apart = _each(lambda added: added[batch:] - _times(added[:batch], others), added)
                self.apart = [*self.apart[-1:], Seen(t, apart)]
            return late, added
        self.halved += 1
        first = early.rows(slice(0, batch))
        own = self.passes.run(first, policy.prefix, depth) - first
        added = _each(lambda own, apart: torch.cat([own, _times(own, others) + apart]), own, self._extrapolated(self.apart, t))
        return early + added, added

    def _extrapolated(self, history: Sequence[Seen], t: float) -> Residual:
        """Extrapolate in t, along the line through the last two, as far as may be."""
        last = history[-1]
        if self.policy.reach == 0 or len(history) < 2 or history[0].t == last.t:
            return last.residual
        ahead = min((t - last.t) / (last.t - history[0].t), self.policy.reach)
        return _each(lambda now, before: now + ahead * (now - before), last.residual, history[0].residual)


def _times(rows: Tensor, count: int) -> Tensor:
    return rows if count == 1 else rows.repeat(count, *[1] * (rows.dim() - 1))


def _each(made: Callable[..., Tensor], *residuals: Residual) -> Residual:
    """Return what is made of the tokens of residuals, and of their contexts where all have one."""
    contexts = [residual.context for residual in residuals]
    return Residual(made(*(residual.tokens for residual in residuals)), None if any(one is None for one in contexts) else made(*contexts))
