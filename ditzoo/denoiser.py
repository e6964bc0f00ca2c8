"""The denoiser: what samplers see as `denoise(x, t)`.

Guidance is a list of branches. Their outputs are weighed into one prediction, and what was spent goes into the ledger of the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce

import torch
from torch import Tensor

from ditzoo.given import Given
from ditzoo.interfaces import Backbone, Cond, DepthPolicy, Evaluate, Prediction, Schedule
from ditzoo.model_spec import Guidance
from ditzoo.passes import Branch as Branch
from ditzoo.passes import Ledger as Ledger
from ditzoo.passes import Passes
from ditzoo.predictions import expand

Branches = Callable[[float], Sequence[Branch]]


def guided(cond: Cond, null: Cond | None, guidance: Guidance, scales: Tensor | None = None) -> Branches:
    """Return the branches of classifier-free guidance as a function of t; `scales` (B,) are one a row, in place of the guidance's."""
    channels = None if guidance.channels == "all" else guidance.channels
    lo, hi = guidance.interval
    scale = guidance.scale if scales is None else scales

    def branches(t: float) -> list[Branch]:
        if null is None or (scales is None and guidance.scale == 1) or not lo <= t <= hi:
            return [Branch(cond)]
        return [Branch(cond, scale, channels=channels), Branch(null, 1 - scale, channels=channels, name="null")]

    return branches


@dataclass(frozen=True)
class Denoiser:
    """`denoise(x, t) -> Prediction` for one run: a backbone under a schedule, guided by branches.

    Their outputs come about as one batch, each to its own depth, or as a depth `policy` has it; `evaluate` takes the place of both. Of
    frames that are given it sees and predicts the given data, whatever x has there. `steps` is in how many the schedule is walked: what
    depends on its times alone is then computed for all of them at once.
    """

    backbone: Backbone
    schedule: Schedule
    branches: Branches
    ledger: Ledger = field(default_factory=Ledger)
    rescale: float = 0.0
    policy: DepthPolicy | None = None
    evaluate: Evaluate | None = None
    given: Given | None = None
    steps: int | None = None

    @cached_property
    def passes(self) -> Passes:
        """The counted passes of this run."""
        return Passes(self.backbone, self.schedule, self.ledger, given=self.given, steps=self.steps)

    @cached_property
    def outputs(self) -> Evaluate:
        """What evaluates the looks of this run; a policy's memory of them is in it."""
        if self.evaluate is not None:
            return self.evaluate
        return self.passes.together if self.policy is None else self.policy.follow(self.passes)

    def under(self, policy: DepthPolicy) -> Denoiser:
        """Return the same with its branches evaluated as a depth policy has it."""
        return replace(self, policy=policy)

    def __call__(self, x: Tensor, t: Tensor) -> Prediction:
        """Predict from x (B, C, *S) at scalar t, or at the times of its frames (1, T)."""
        started, before = time.perf_counter(), self.ledger.block_evals
        latest = float(t.max())
        branches = self.branches(latest)
        seen = x if self.given is None else self.given.laid(x)
        outputs = self.outputs(branches, seen, t)
        prediction = self.schedule.split(weighed(branches, outputs, x.shape[1], self.rescale), seen, t)
        if self.given is not None:
            prediction = self.given.held(prediction, x, t, self.schedule)
        self.ledger.calls += 1
        self.ledger.trace.append((latest, (self.ledger.block_evals - before) / len(x)))
        self.ledger.seconds += time.perf_counter() - started
        return prediction


def weighed(branches: Sequence[Branch], outputs: Sequence[Tensor], latent_channels: int, rescale: float = 0.0) -> Tensor:
    """Return the weighed sum of the branches' outputs (B, C or 2C, *S), brought back by `rescale` to the deviation of the first."""
    first = outputs[0]
    if len(outputs) == 1:
        return first
    channels = min(branches[0].channels or latent_channels, latent_channels)
    parts = []
    for branch, out in zip(branches, outputs, strict=True):
        weight = expand(branch.weight, out) if isinstance(branch.weight, Tensor) else branch.weight
        parts.append(weight * out[:, :channels])
    total = reduce(torch.add, parts)
    if rescale:
        axes = tuple(range(1, first.dim()))
        share = first[:, :channels].std(axes, keepdim=True) / total.std(axes, keepdim=True).clamp(min=1e-12)
        total = total * (1 - rescale + rescale * share)
    return torch.cat([total, first[:, channels:]], dim=1)
