"""What flows between the blocks of a backbone, as records of tensors that can be cut by rows, subtracted and added.

Shapes: B rows of a batch, N tokens, L prompt tokens, D width. Where K clips are packed into one row of tokens, time and prompt have K rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ditzoo.packing import Packing
from ditzoo.pages import release


@dataclass(frozen=True)
class Cond:
    """What the prompt says, a row a picture: a pooled vector, tokens, and which tokens count (True)."""

    vec: Tensor  # (B, D)
    tokens: Tensor  # (B, L, D); L may be 0
    mask: Tensor | None = None  # (B, L) bool; None: all count

    def rows(self, index: Tensor | slice) -> Cond:
        return _map_rows(self, index)

    @staticmethod
    def cat(conds: Sequence[Cond]) -> Cond:
        """Join the rows of several; shorter token lists are padded with masked tokens."""
        longest = max(cond.tokens.shape[1] for cond in conds)
        same = all(cond.tokens.shape[1] == longest and cond.mask is None for cond in conds)
        padded = conds if same else [cond.padded(longest) for cond in conds]
        return Cond(
            torch.cat([cond.vec for cond in padded]),
            torch.cat([cond.tokens for cond in padded]),
            None if same else torch.cat([cond.mask for cond in padded if cond.mask is not None]),
        )

    def padded(self, length: int) -> Cond:
        """Return the same prompt with `length` tokens, the added ones masked out."""
        batch, held, width = self.tokens.shape
        mask = self.mask if self.mask is not None else self.tokens.new_ones(batch, held, dtype=torch.bool)
        return Cond(
            self.vec,
            torch.cat([self.tokens, self.tokens.new_zeros(batch, length - held, width)], 1),
            torch.cat([mask, mask.new_zeros(batch, length - held)], 1),
        )


class Foreseen(NamedTuple):
    """What of streams does not depend on latents: embedded time, and where there are such, what modulates and where tokens are."""

    time: Tensor  # (B, D)
    vec: Tensor | None = None  # (B, D)
    table: Tensor | None = None  # (N, D) what is added to the tokens of all rows
    positions: Tensor | None = None  # as in `Stream`

    def rows(self, index: Tensor | slice) -> Foreseen:
        return self._replace(time=self.time[index], vec=None if self.vec is None else self.vec[index])


class Ahead:
    """What layers make of the vectors that modulate, for many looks of a run at once: each layer is called when it is first asked for."""

    def __init__(self, vec: Tensor) -> None:
        self.vec = vec  # (K, D), a row for each time and prompt
        self._made: dict[nn.Module, Tensor] = {}

    def of(self, layer: nn.Module, places: Tensor) -> Tensor:
        """Return what `layer` makes of the vectors at `places` (B,), (B, ...)."""
        if layer not in self._made:
            self._made[layer] = layer(self.vec)
            release(layer.parameters())  # the run does not need them again
        return self._made[layer][places]


class Residual(NamedTuple):
    """The difference of two streams: what some blocks added."""

    tokens: Tensor
    context: Tensor | None


@dataclass(frozen=True)
class Stream:
    """What flows between the blocks of a backbone. Blocks return a new stream with `tokens` (and `context`) changed."""

    tokens: Tensor  # (B, N, D); those of the grid first
    time: Tensor  # (B, D) embedded time
    cond: Cond
    grid: tuple[int, ...]  # tokens on each latent axis
    context: Tensor | None = None  # (B, L, D) a second stream, for blocks that change the prompt's tokens too
    vec: Tensor | None = None  # (B, D), or several side by side: what modulates, made from time and prompt by the conditioning
    positions: Tensor | None = None  # shared by all rows: (N, D) table or rotary angles
    ahead: Ahead | None = None  # shared by all rows: what the run has computed of `vec` for all of its looks
    places: Tensor | None = None  # (B,) where in `ahead` each row's vector is
    known: Tensor | None = None  # (B, D) the `vec` that `ahead` is of; where another has taken its place, `ahead` says nothing
    packing: Packing | None = None  # the clips that lie in the one row of tokens, if they are several
    shares: tuple[int, ...] | None = None  # how many tokens of a row each process has, where they are shared out: `tokens` are one's own

    def modulation(self, layer: nn.Module) -> Tensor:
        """Return layer(vec), (B, ...): what modulates a block. A run that knows its times has it computed for all of them at once."""
        if self.ahead is None or self.places is None or self.vec is not self.known:
            made: Tensor = layer(self.vec)
            return made
        return self.ahead.of(layer, self.places)

    def alone(self) -> Stream:
        """Return the stream without what a run has computed ahead: layers make anew what modulates."""
        return replace(self, ahead=None, places=None, known=None)

    def in_run_of(self, other: Stream) -> Stream:
        """Return the stream with what the run of another has computed ahead."""
        return replace(self, ahead=other.ahead, places=other.places, known=other.known)

    @property
    def grids(self) -> tuple[tuple[int, ...], ...]:
        """The grids whose tokens lie one after another in a row."""
        return (self.grid,) if self.packing is None else self.packing.grids

    @property
    def count(self) -> int:
        """How many tokens of a row are those of grids; more may follow."""
        return sum(math.prod(grid) for grid in self.grids)

    @property
    def length(self) -> int:
        """How many tokens a row has, in all processes."""
        return self.tokens.shape[1] if self.shares is None else sum(self.shares)

    def over_tokens(self, vectors: Tensor) -> Tensor:
        """Give vectors (B, D), a row each, to the tokens of the grid: (B, 1, D) to broadcast, or of packed clips (1, N, D)."""
        return vectors[:, None] if self.packing is None else vectors.index_select(0, self.packing.clip_of_token(vectors.device))[None]

    def over_context(self, vectors: Tensor) -> Tensor:
        """Give vectors (B, D), a row each, to the tokens of the second stream, as `over_tokens` does."""
        if self.packing is None or self.context is None:
            return vectors[:, None]
        return vectors.repeat_interleave(self.context.shape[1] // len(vectors), dim=0)[None]

    def beside(self, rows: Tensor) -> Tensor:
        """Lay a sequence for each row, (B, L, ...), out as the tokens lie: as it is, or of packed clips one after another (1, K L, ...)."""
        return rows if self.packing is None else rows.flatten(0, 1)[None]

    def sees(self, mask: Tensor | None, length: int) -> Tensor | None:
        """Return which of the tokens that `beside` lays out a token of the grid may look at: (B, L), or of packed clips (1, N, K L)."""
        if self.packing is None:
            return mask
        own = self.packing.clip_of_token(self.tokens.device)[:, None] == self.packing.clip_of_beside(length, self.tokens.device)
        return own[None] if mask is None else own[None] & mask.flatten()

    def rows(self, index: Tensor | slice) -> Stream:
        """Take rows of the batch; what all rows share stays."""
        return _map_rows(self, index)

    def __sub__(self, earlier: Stream) -> Residual:
        both = self.context is not None and earlier.context is not None
        return Residual(self.tokens - earlier.tokens, self.context - earlier.context if both else None)  # type: ignore[operator]

    def __add__(self, residual: Residual) -> Stream:
        context = self.context
        if context is not None and residual.context is not None:
            context = context + residual.context
        return replace(self, tokens=self.tokens + residual.tokens, context=context)

    @property
    def nbytes(self) -> int:
        """Bytes of everything that this stream keeps alive."""
        held = [getattr(self, f.name) for f in fields(self)] + [getattr(self.cond, f.name) for f in fields(self.cond)]
        return sum({id(tensor): tensor.nbytes for tensor in held if isinstance(tensor, Tensor)}.values())


Record = TypeVar("Record", Cond, Stream)


def _map_rows(record: Record, index: Tensor | slice) -> Record:
    changed: dict[str, Any] = {}
    cut: dict[int, Tensor] = {}  # one tensor under two names stays one
    for f in fields(record):
        value = getattr(record, f.name)
        if f.name != "positions" and isinstance(value, Tensor):
            if id(value) not in cut:
                cut[id(value)] = value[index]
            changed[f.name] = cut[id(value)]
        elif isinstance(value, Cond):
            changed[f.name] = value.rows(index)
    return replace(record, **changed)
