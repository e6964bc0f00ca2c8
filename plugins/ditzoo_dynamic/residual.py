"""Looks that run the first blocks, and guess what the others would add from looks that ran them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

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

    def follow(self, passes: Passes) -> Evaluate:
        crossed = [stage for stage in passes.backbone.stages if self.prefix < stage < passes.backbone.depth]
        if crossed:
            raise SamplingError(
                f"the backbone's stream changes its layout after block {crossed[-1]}, so nothing before it can be added to what comes "
                f"after; set sampler.policy.prefix to at least {crossed[-1]}"
            )
        return _Run(self, passes)


class Seen(NamedTuple):
    """What the blocks after the prefix added, at a time, for the rows of some branches."""

    t: float
    residual: Residual


@dataclass
class _Run:
    """The looks of one run, and the two last residuals of its free branches."""

    policy: Residuals
    passes: Passes
    looks: int = 0
    guessed: int = 0  # looks since the last whole one
    names: tuple[str, ...] = ()
    history: list[Seen] = field(default_factory=list)

    def __call__(self, branches: Sequence[Branch], x: Tensor, t: Tensor) -> list[Tensor]:
        free = [index for index, branch in enumerate(branches) if branch.depth is None]
        fixed = [index for index, branch in enumerate(branches) if branch.depth is not None]
        names = tuple(branches[index].name for index in free)
        if names != self.names:  # guidance's interval begins or ends: these rows have no past
            self.names, self.history = names, []
        outputs = dict(zip(fixed, self.passes.together([branches[index] for index in fixed], x, t), strict=True)) if fixed else {}
        stream = self._stream([branches[index] for index in free], x, t)
        read = self.passes.read(stream, None)
        outputs |= dict(zip(free, read.split(len(x)), strict=True))
        self.looks += 1
        return [outputs[index] for index in range(len(branches))]

    def _stream(self, branches: Sequence[Branch], x: Tensor, t: Tensor) -> Stream:
        """Return the stream after all blocks, run or guessed."""
        policy, depth, latest = self.policy, self.passes.backbone.depth, float(t.max())
        early = self.passes.run(self.passes.begin(x, t, [branch.cond for branch in branches]), 0, policy.prefix)
        whole = self.looks < policy.warmup or latest > policy.whole_above or self.guessed == policy.every - 1
        if not whole and self.history:
            self.guessed += 1
            return early + self._extrapolated(latest)
        late = self.passes.run(early, policy.prefix, depth)
        self.history, self.guessed = [*self.history[-1:], Seen(latest, late - early)], 0
        return late

    def _extrapolated(self, t: float) -> Residual:
        """Extrapolate in t, along the line through the last two, as far as may be."""
        last = self.history[-1]
        if self.policy.reach == 0 or len(self.history) < 2 or self.history[0].t == last.t:
            return last.residual
        ahead = min((t - last.t) / (last.t - self.history[0].t), self.policy.reach)
        tokens, context = (
            None if now is None or before is None else now + ahead * (now - before)
            for now, before in zip(last.residual, self.history[0].residual, strict=True)
        )
        assert tokens is not None
        return Residual(tokens, context)
