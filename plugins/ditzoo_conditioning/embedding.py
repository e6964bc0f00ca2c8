"""The working prompts: a table of label vectors, and none at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ditzoo.interfaces import Cond, Prompt

if TYPE_CHECKING:
    from ditzoo_conditioning.prompts import LabelSpec


class LabelPrompt(Prompt):
    """A row a class, and the null row last: `vec` is the row, `tokens` the row as a sequence of one."""

    def __init__(self, spec: LabelSpec, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.table = nn.Embedding(spec.classes + (spec.dropout > 0), width)
        nn.init.normal_(self.table.weight, std=0.02)

    def encode(self, items: Sequence[int] | Tensor) -> Cond:
        vec = self.table(torch.as_tensor(items, device=self.table.weight.device))  # (B, D)
        return Cond(vec, vec[:, None])

    def null(self, batch: int) -> Cond:
        if not self.spec.dropout:
            raise ValueError("prompt.dropout is 0, so this label table has no null row")
        return self.encode([self.spec.classes] * batch)

    def drop(self, items: Any, uniform: Tensor) -> Tensor:
        labels = torch.as_tensor(items)
        return torch.where(uniform.to(labels.device) < self.spec.dropout, self.spec.classes, labels)


class NoPrompt(Prompt):
    """A zero vector and no tokens; the buffer only tells device and dtype."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(1, width, device="cpu"), persistent=False)

    def encode(self, items: Sequence[Any]) -> Cond:
        zero: Tensor = self.zero  # type: ignore[assignment]
        vec = zero.expand(len(items), -1)
        return Cond(vec, vec[:, None][:, :0])

    def null(self, batch: int) -> Cond:
        return self.encode([None] * batch)
