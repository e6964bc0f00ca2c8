"""Passes through a backbone, counted: what a look is made of, and the looks at several branches as one batch.

A *branch* is one evaluation of the network that goes into a prediction; guidance is a list of them. Their rows are run
together, each branch leaving at its own depth; branches of one prompt share the blocks that they have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from ditzoo.foresight import Foresight
from ditzoo.given import Given
from ditzoo.interfaces import Backbone, Cond, Schedule, Stream

Result = TypeVar("Result")


@dataclass(frozen=True)
class Branch:
    """One evaluation of the network that goes into a prediction.

    `weight`, one or one a row (B,), counts on the first `channels` channels of the latent (None: on all); on the others, and on a
    learned variance, the first branch alone counts. `depth` is where the branch leaves the backbone (None: at the end); `name` tells
    branches apart from look to look.
    """

    cond: Cond
    weight: float | Tensor = 1.0
    depth: int | None = None
    channels: int | None = None
    name: str = "cond"


@dataclass
class Ledger:
    """What a run has spent. A block evaluation is one block on one row; MACs are multiply-adds.

    `trace` has (t, block evaluations a picture) of each look.
    """

    calls: int = 0
    rows: int = 0
    block_evals: int = 0
    macs: int = 0
    seconds: float = 0.0
    count_macs: bool = False
    trace: list[tuple[float, float]] = field(default_factory=list, repr=False)
    _macs_a_row: dict[object, int] = field(default_factory=dict, repr=False)

    def beside(self, other: Ledger) -> Ledger:
        """Return what this run and another have spent together."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in ("calls", "rows", "block_evals", "macs", "seconds", "trace")}
        return replace(self, **sums)

    def measure(self, key: object, rows: int, work: Callable[[], Result]) -> Result:
        """Run `work`; count its MACs the first time that `key` is seen and by rows afterwards, or every time where it is None."""
        if not self.count_macs:
            return work()
        if key is not None and key in self._macs_a_row:
            self.macs += self._macs_a_row[key] * rows
            return work()
        from ditzoo.figures import counted_macs

        result, macs = counted_macs(work)
        if key is not None:
            self._macs_a_row[key] = macs // rows
        self.macs += macs
        return result


class Passes:
    """The passes of one run: a backbone under a schedule, and the ledger that they are counted in.

    Where it is known in how many steps the schedule is walked, times and prompts are embedded, and what modulates is computed, for all
    looks at once. A ledger that counts multiply-adds counts those of the network as it is written, so nothing is computed ahead then; nor
    where frames have times of their own. Where frames are given, x has them in place, and the backbone is told their own time.
    """

    def __init__(
        self, backbone: Backbone, schedule: Schedule, ledger: Ledger, *, given: Given | None = None, steps: int | None = None
    ) -> None:
        self.backbone, self.schedule, self.ledger, self.given = backbone, schedule, ledger, given
        told = None if given is not None or ledger.count_macs else steps
        self.foresight = None if told is None else Foresight(backbone, schedule, told)
        self._joined: dict[tuple[int, ...], tuple[Sequence[Cond], Cond]] = {}

    def begin(self, x: Tensor, t: Tensor, conds: Sequence[Cond]) -> Stream:
        """Make the streams of x (B, C, *S) at t, scalar or of frames (1, T), for each of `conds`, one under the other."""
        rows = torch.cat([x] * len(conds)) if len(conds) > 1 else x
        cond = self._join(conds)
        self.ledger.rows += len(rows)
        look = self.foresight.look(x, t, conds) if self.foresight is not None and t.dim() == 0 else None
        if look is not None:
            foreseen, ahead, places = look
            return replace(self.backbone.begin_with(rows, cond, foreseen), ahead=ahead, places=places, known=foreseen.vec)
        times = self.schedule.model_time(t) if self.given is None else self.given.times(t, self.schedule)
        times = times.float().to(x.device)  # (), or of frames (T,) or (1, T)
        times = times.expand(len(rows), *times.shape[-1:])
        return self.ledger.measure(("begin", tuple(x.shape[1:])), len(rows), partial(self.backbone.begin, rows, times, cond))

    def _join(self, conds: Sequence[Cond]) -> Cond:
        """Return the rows of several prompts as one, made once a run."""
        if len(conds) == 1:
            return conds[0]
        key = tuple(map(id, conds))
        if key not in self._joined:
            self._joined[key] = conds, Cond.cat(conds)
        return self._joined[key][1]

    def run(self, stream: Stream, lo: int, hi: int) -> Stream:
        """Run blocks [lo, hi) on all rows."""
        rows = len(stream.tokens)
        if hi <= lo or not rows:
            return stream
        self.ledger.block_evals += rows * (hi - lo)
        key = ("run", lo, hi, stream.grid) if self.backbone.constant_cost else None
        return self.ledger.measure(key, rows, partial(self.backbone.run, stream, lo, hi))

    def read(self, stream: Stream, depth: int | None) -> Tensor:
        """Read the prediction out of all rows after `depth` blocks, None for all of them."""
        rows = len(stream.tokens)
        return self.ledger.measure(("head", depth, stream.grid), rows, partial(self.backbone.read, stream, depth))

    def together(self, branches: Sequence[Branch], x: Tensor, t: Tensor) -> list[Tensor]:
        """Run all branches as one batch, those that go deepest first, and drop the rows of those that have left."""
        full, batch = self.backbone.depth, len(x)
        depths = [full if branch.depth is None else branch.depth for branch in branches]
        reach: dict[int, int] = {}  # how deep each prompt goes
        for branch, depth in zip(branches, depths, strict=True):
            reach[id(branch.cond)] = max(reach.get(id(branch.cond), 0), depth)
        order = sorted(reach, key=lambda prompt: reach[prompt], reverse=True)
        conds = {id(branch.cond): branch.cond for branch in branches}
        stream, done, outputs = self.begin(x, t, [conds[prompt] for prompt in order]), 0, dict[int, Tensor]()
        for depth in sorted(set(depths)):
            stream, done = self.run(stream, done, depth), depth
            alive = len(order)
            for index, branch in enumerate(branches):
                if depths[index] == depth:
                    place = order.index(id(branch.cond))
                    own = stream.rows(slice(place * batch, (place + 1) * batch)) if alive > 1 else stream
                    outputs[index] = self.read(own, branch.depth)
            order = [prompt for prompt in order if reach[prompt] > depth]
            if 0 < len(order) < alive:
                stream = stream.rows(slice(0, len(order) * batch))
        return [outputs[index] for index in range(len(branches))]
