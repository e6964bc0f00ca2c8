"""The working prompt of `sd3-text`: projections of what frozen encoders say, which are trained with the model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditzoo.interfaces import Cond, Prompt
from ditzoo_mmdit.sd3_text import asked_of

if TYPE_CHECKING:
    from ditzoo_mmdit.encoders import Encoders
    from ditzoo_mmdit.sd3_text import SD3TextSpec


class States(NamedTuple):
    """What the encoders say of one prompt."""

    pooled: Tensor  # (P,)
    tokens: Tensor  # (L, S)


class Pooled(nn.Module):
    """Linear, SiLU, linear."""

    def __init__(self, pooled: int, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(pooled, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.silu(self.fc1(x)))


class SD3Text(Prompt):
    """`vec` is a projection of the pooled vectors, `tokens` one of the encoders' tokens. The null is the empty text."""

    def __init__(self, spec: SD3TextSpec, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.pooled, self.context = Pooled(spec.pooled, width), nn.Linear(spec.states, width)

    @cached_property
    def encoders(self) -> Encoders:
        """The frozen encoders; none is loaded before it is asked. They are no part of this module's weights."""
        from ditzoo_mmdit.encoders import Encoders

        return Encoders(self.spec)

    def encode(self, items: Sequence[Any]) -> Cond:
        """Encode prompts, as the spec parses them or as `States` that were made before."""
        like = self.context.weight
        if like.is_meta:
            return self._shapes(len(items))
        made = {item: self.encoders.states(item, like.device) for item in dict.fromkeys(_texts(items))}
        states = [item if isinstance(item, States) else made[asked_of(item)] for item in items]
        pooled = torch.stack([one.pooled for one in states]).to(like)
        return Cond(self.pooled(pooled), self.context(torch.stack([one.tokens for one in states]).to(like)))

    def _shapes(self, batch: int) -> Cond:
        """Return what is encoded on meta: shapes alone, without an encoder."""
        spec, like = self.spec, self.context.weight
        tokens = like.new_empty(batch, spec.clip_length + spec.t5_length, spec.states)
        return Cond(self.pooled(like.new_empty(batch, spec.pooled)), self.context(tokens))

    def null(self, batch: int) -> Cond:
        return self.encode([asked_of("")] * batch)

    def drop(self, items: Any, uniform: Tensor) -> list[Any]:
        return [asked_of("") if dropped else item for item, dropped in zip(items, (uniform < self.spec.dropout).tolist(), strict=True)]


def _texts(items: Sequence[Any]) -> list[Any]:
    return [asked_of(item) for item in items if not isinstance(item, States)]
