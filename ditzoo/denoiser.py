"""The denoiser: the only caller of a backbone while sampling, and what samplers see as `denoise(x, t)`.

Guidance is a list of branches. Their rows are run together as one batch, each branch leaving at its own depth, and
their outputs are weighed into one prediction. What was spent goes into the ledger of the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from ditzoo.interfaces import Backbone, Cond, Prediction, Schedule
from ditzoo.model_spec import Guidance
from ditzoo.predictions import expand

Result = TypeVar("Result")


@dataclass(frozen=True)
class Branch:
    """One evaluation of the network that goes into a prediction.

    `weight`, one or one a row (B,), counts on the first `channels` channels of the latent (None: on all); on the others, and on a learned
    variance, the first branch alone counts. `depth` is where the branch leaves the backbone (None: at the end).
    """

    cond: Cond
    weight: float | Tensor = 1.0
    depth: int | None = None
    channels: int | None = None


class DepthPolicy(Protocol):
    """Plans each step: given t and the branches of the guidance, returns the branches to run."""

    def plan(self, t: float, branches: Sequence[Branch]) -> Sequence[Branch]: ...


@dataclass
class Ledger:
    """What a run has spent. A block evaluation is one block on one row; MACs are multiply-adds."""

    calls: int = 0
    rows: int = 0
    block_evals: int = 0
    macs: int = 0
    seconds: float = 0.0
    count_macs: bool = False
    _macs_a_row: dict[object, int] = field(default_factory=dict, repr=False)

    def measure(self, key: object, rows: int, work: Callable[[], Result]) -> Result:
        """Run `work`; count its MACs the first time that `key` is seen and by rows afterwards."""
        if not self.count_macs:
            return work()
        if key in self._macs_a_row:
            self.macs += self._macs_a_row[key] * rows
            return work()
        from ditzoo.figures import counted_macs

        result, macs = counted_macs(work)
        self._macs_a_row[key] = macs // rows
        self.macs += macs
        return result


def guided(cond: Cond, null: Cond | None, guidance: Guidance, scales: Tensor | None = None) -> Callable[[float], list[Branch]]:
    """Return the branches of classifier-free guidance as a function of t; `scales` (B,) are one a row, in place of the guidance's."""
    channels = None if guidance.channels == "all" else guidance.channels
    lo, hi = guidance.interval
    scale = guidance.scale if scales is None else scales

    def branches(t: float) -> list[Branch]:
        if null is None or (scales is None and guidance.scale == 1) or not lo <= t <= hi:
            return [Branch(cond)]
        return [Branch(cond, scale, channels=channels), Branch(null, 1 - scale, channels=channels)]

    return branches


@dataclass(frozen=True)
class Denoiser:
    """`denoise(x, t) -> Prediction` for one run: a backbone under a schedule, guided by branches."""

    backbone: Backbone
    schedule: Schedule
    branches: Callable[[float], Sequence[Branch]]
    policy: DepthPolicy | None = None
    ledger: Ledger = field(default_factory=Ledger)
    rescale: float = 0.0

    def with_policy(self, policy: DepthPolicy) -> Denoiser:
        return replace(self, policy=policy)

    def __call__(self, x: Tensor, t: Tensor) -> Prediction:
        """Predict from x (B, C, *S) at scalar t."""
        started = time.perf_counter()
        branches = self.branches(float(t))
        if self.policy is not None:
            branches = self.policy.plan(float(t), branches)
        out = self._weigh(branches, self._run(branches, x, t), x.shape[1], self.rescale)
        prediction = self.schedule.split(out, x, t)
        self.ledger.calls += 1
        self.ledger.seconds += time.perf_counter() - started
        return prediction

    def _run(self, branches: Sequence[Branch], x: Tensor, t: Tensor) -> list[Tensor]:
        """Run all branches as one batch, deepest last, dropping the rows of those that have left."""
        full, batch = self.backbone.depth, x.shape[0]
        order = sorted(range(len(branches)), key=lambda i: branches[i].depth or full, reverse=True)
        cond = branches[0].cond if len(branches) == 1 else Cond.cat([branches[i].cond for i in order])
        rows = x.repeat(len(branches), *[1] * (x.dim() - 1)) if len(branches) > 1 else x
        times = self.schedule.model_time(t).float().to(x.device).expand(len(rows))
        self.ledger.rows += len(rows)
        size, measure = tuple(x.shape[1:]), self.ledger.measure
        stream = measure(("begin", size), len(rows), partial(self.backbone.begin, rows, times, cond))
        outputs: dict[int, Tensor] = {}
        done = 0
        for place in range(len(branches) - 1, -1, -1):  # the shallowest leaves first; its rows are the last
            leaving = branches[order[place]]
            depth, alive = leaving.depth or full, (place + 1) * batch
            if len(stream.tokens) > alive:
                stream = stream.rows(slice(0, alive))
            if depth > done:
                stream = measure(("run", done, depth, size), alive, partial(self.backbone.run, stream, done, depth))
                self.ledger.block_evals += alive * (depth - done)
                done = depth
            own = stream.rows(slice(alive - batch, alive)) if place else stream
            outputs[order[place]] = measure(("head", depth, size), batch, partial(self.backbone.head, own, leaving.depth))
        return [outputs[i] for i in range(len(branches))]

    @staticmethod
    def _weigh(branches: Sequence[Branch], outputs: Sequence[Tensor], latent_channels: int, rescale: float) -> Tensor:
        first = outputs[0]
        if len(outputs) == 1:
            return first
        channels = min(branches[0].channels or latent_channels, latent_channels)
        weighed = torch.zeros_like(first[:, :channels])
        for branch, out in zip(branches, outputs, strict=True):
            weight = expand(branch.weight, out) if isinstance(branch.weight, Tensor) else branch.weight
            weighed = weighed + weight * out[:, :channels]
        if rescale:
            axes = tuple(range(1, first.dim()))
            share = first[:, :channels].std(axes, keepdim=True) / weighed.std(axes, keepdim=True).clamp(min=1e-12)
            weighed = weighed * (1 - rescale + rescale * share)
        return torch.cat([weighed, first[:, channels:]], dim=1)
