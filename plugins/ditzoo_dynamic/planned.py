"""Depths that are known before the run: one for all looks, or by noise level."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ditzoo.errors import SamplingError
from ditzoo.interfaces import DepthPolicy, Evaluate
from ditzoo.passes import Branch, Passes

VALUES = 64  # of each parameter that a fingerprint looks at


@dataclass(frozen=True)
class Planned(DepthPolicy):
    """`cond` and `null` are the depths of guidance's branches in each bin of t between `edges`; None is all blocks.

    A branch that has a depth already keeps it.
    """

    cond: Sequence[int | None]
    null: Sequence[int | None]
    edges: Sequence[float] = (0.0, 1.0)
    fingerprint: str | None = None

    def follow(self, passes: Passes) -> Evaluate:
        if self.fingerprint is not None and (found := fingerprint(passes.backbone)) != self.fingerprint:
            raise SamplingError(
                f"the table of depths was calibrated on weights {self.fingerprint[:12]}, and these are {found[:12]}; "
                f"calibrate anew with 'ditzoo calibrate'"
            )

        def evaluate(branches: Sequence[Branch], x: Tensor, t: Tensor) -> list[Tensor]:
            return passes.together(self.plan(float(t.max()), branches), x, t)

        return evaluate

    def plan(self, t: float, branches: Sequence[Branch]) -> list[Branch]:
        """Return the branches with the depths of t."""
        bin = min(max(bisect_right(self.edges, t) - 1, 0), len(self.cond) - 1)
        depths = {"null": self.null[bin]}
        return [replace(one, depth=depths.get(one.name, self.cond[bin])) if one.depth is None else one for one in branches]


def fingerprint(module: nn.Module) -> str:
    """Return a hash that tells weights apart: of evenly spaced values of each parameter, in bf16, so that a cast to it changes nothing."""
    digest = hashlib.sha256()
    for name, parameter in module.named_parameters():
        values = parameter.detach().flatten()
        chosen = torch.linspace(0, len(values) - 1, min(VALUES, len(values))).long()
        digest.update(name.encode())
        digest.update(values[chosen.to(values.device)].to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
    return digest.hexdigest()
