"""What an evaluation keeps of what a network sees: figures need no more of a picture or a clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ditzoo.evaluation.metrics import consistency
from ditzoo.interfaces import Seen


class Kept(NamedTuple):
    """A row a picture or clip; None where the network does not see it."""

    features: Tensor  # (N, D) fp32
    logits: Tensor | None = None  # (N, K) fp32
    attributes: Tensor | None = None  # (N, A) by number
    consistency: Tensor | None = None  # (N,) fp32, of clips

    @classmethod
    def of(cls, seen: Seen) -> Kept:
        return cls(seen.features, seen.logits, seen.attributes, None if seen.frames is None else consistency(seen.frames))

    @classmethod
    def read(cls, table: Mapping[str, Tensor]) -> Kept:
        """Return what `table` wrote; other tensors beside it are left."""
        return cls(table["features"], *(table.get(name) for name in cls._fields[1:]))

    @classmethod
    def cat(cls, parts: Sequence[Kept]) -> Kept:
        """Join the rows of several."""
        return cls.read({name: torch.cat([part.table()[name] for part in parts]) for name in parts[0].table()})

    def table(self) -> dict[str, Tensor]:
        return {name: value for name, value in self._asdict().items() if value is not None}

    def rows(self, index: slice | Tensor) -> Kept:
        return Kept.read({name: value[index] for name, value in self.table().items()})
