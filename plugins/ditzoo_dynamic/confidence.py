"""A depth for each picture: rows leave at the exit that says nearly what the one before it said. Rows are gathered, not masked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ditzoo.interfaces import DepthPolicy, Evaluate
from ditzoo.passes import Branch, Passes


@dataclass(frozen=True)
class Confidence(DepthPolicy):
    """See the spec. Branches that have a depth already are run to it."""

    threshold: Sequence[float]
    quota: float | None = None
    exits: Sequence[int] | None = None

    def follow(self, passes: Passes) -> Evaluate:
        def evaluate(branches: Sequence[Branch], x: Tensor, t: Tensor) -> list[Tensor]:
            free = [index for index, branch in enumerate(branches) if branch.depth is None]
            fixed = [index for index, branch in enumerate(branches) if branch.depth is not None]
            outputs = dict(zip(fixed, passes.together([branches[index] for index in fixed], x, t), strict=True)) if fixed else {}
            outputs |= dict(zip(free, self._by_row(passes, [branches[index] for index in free], x, t), strict=True))
            return [outputs[index] for index in range(len(branches))]

        return evaluate

    def _by_row(self, passes: Passes, branches: Sequence[Branch], x: Tensor, t: Tensor) -> Sequence[Tensor]:
        backbone, done = passes.backbone, 0
        stream = passes.begin(x, t, [branch.cond for branch in branches])
        rows = torch.arange(len(stream.tokens), device=x.device)  # which row of the result each row of the stream is
        said: Tensor | None = None
        result: Tensor | None = None
        given = backbone.given_exits.at if backbone.given_exits is not None else ()
        for depth in (*sorted(self.exits or {*backbone.exits, *given} - {backbone.depth}), backbone.depth):
            stream, done = passes.run(stream, done, depth), depth
            out = passes.read(stream, None if depth == backbone.depth else depth)
            result = out.new_empty(len(rows), *out.shape[1:]) if result is None else result
            result[rows] = out  # those that go on are written over
            if depth == backbone.depth:
                break
            if said is not None:
                apart = (out - said).flatten(1).norm(dim=1) / out.flatten(1).norm(dim=1).clamp(min=1e-12)
                keep = self._going_on(apart, float(t.max()))
                if not len(keep):
                    break
                stream, rows, out = stream.rows(keep), rows[keep], out[keep]
            said = out
        assert result is not None
        return result.split(len(x))

    def _going_on(self, apart: Tensor, t: float) -> Tensor:
        """Return the places of the rows that go on."""
        if self.quota is not None:
            return apart.topk(math.ceil(self.quota * len(apart))).indices.sort().values
        bin = min(int(t * len(self.threshold)), len(self.threshold) - 1)
        return (apart > self.threshold[bin]).nonzero()[:, 0]
