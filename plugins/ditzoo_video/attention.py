"""Self-attention within the groups of a pattern, queries and keys turned by rotary angles where positions have them."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from ditzoo.interfaces import Pattern, Stream
from ditzoo.layers import Attention, attend

Grids = tuple[tuple[int, ...], ...]


class Looks(NamedTuple):
    """Groups of one shape: tokens (G, n) that look at tokens (G, m), by their place in the row."""

    queries: Tensor
    keys: Tensor


class GroupedAttention(Attention):
    """Attention of block `index` of a network over grids. Tokens behind those of the grids, as many for each clip, belong to no group:
    all of their clip see them, and they see all of it.
    """

    def __init__(self, width: int, heads: int, pattern: Pattern, index: int, qk_norm: Literal["rms"] | None = None) -> None:
        super().__init__(width, heads, qk_norm=qk_norm)
        self.pattern, self.index = pattern, index

    def look(self, q: Tensor, k: Tensor, v: Tensor, stream: Stream | None, mask: Tensor | None) -> Tensor:
        """Let tokens, those of the stream's grids first, look within their groups; mask (B, N) says which keys count."""
        assert stream is not None, "a grid is needed to tell the groups"
        if stream.positions is not None:
            q, k = turned(q, stream.positions), turned(k, stream.positions)
        plan = planned(self.pattern, stream.grids, self.index, (q.shape[2] - stream.count) // len(stream.grids), q.device)
        return within(plan, q, k, v, mask)


class Plan(NamedTuple):
    """Who looks at whom in a row, and where each of its tokens is in what the looks find, one after another."""

    looks: tuple[Looks, ...]
    order: Tensor  # (N,)


@lru_cache(maxsize=256)
def planned(pattern: Pattern, grids: Grids, block: int, beyond: int, device: torch.device) -> Plan:
    """Return who looks at whom in a block over clips of some grids one after another, with `beyond` tokens for each behind them all."""
    total, start = sum(map(math.prod, grids)), 0
    found: dict[tuple[int, int], list[Looks]] = {}
    for clip, grid in enumerate(grids):
        count = math.prod(grid)
        extra = total + clip * beyond + torch.arange(beyond)
        groups = [rows + start for rows in pattern.groups(grid, block)]
        whole = torch.cat([torch.arange(start, start + count), extra])[None]
        if groups[0].shape == (1, count):
            parts = [Looks(whole, whole)]
        else:
            parts = [Looks(rows, torch.cat([rows, extra.expand(len(rows), -1)], 1)) for rows in groups]
            parts += [Looks(extra[None], whole)] if beyond else []
        for part in parts:
            found.setdefault((part.queries.shape[1], part.keys.shape[1]), []).append(part)
        start += count
    whole_of = [[torch.cat(side).to(device) for side in zip(*parts, strict=True)] for parts in found.values()]
    looks = tuple(Looks(queries, keys) for queries, keys in whole_of)
    return Plan(looks, torch.argsort(torch.cat([one.queries.flatten() for one in looks])))


def within(plan: Plan, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return attention (B, H, N, d) where each token looks at those of its group; mask (B, N) says which keys count."""
    first = plan.looks[0]
    if first.queries.shape == first.keys.shape == (1, q.shape[2]):
        return attend(q, k, v, None if mask is None else mask[:, None, None])
    parts = []
    for queries, keys in plan.looks:
        own, theirs, values = (_grouped(z, rows) for z, rows in ((q, queries), (k, keys), (v, keys)))
        keep = None if mask is None else rearrange(mask[:, keys], "b g n -> (b g) 1 1 n")
        out = attend(own, theirs, values, keep)
        parts.append(rearrange(out, "(b g) h n d -> b h (g n) d", g=len(queries)))
    return torch.cat(parts, dim=2).index_select(2, plan.order)


def _grouped(z: Tensor, rows: Tensor) -> Tensor:
    """Return z (B, H, N, d) as the groups of a look (G, n) see it, (B G, H, n, d)."""
    taken = z.index_select(2, rows.flatten())  # its gradient adds up without sorting, which that of z[:, :, rows] does not
    return rearrange(taken, "b h (g n) d -> (b g) h n d", g=len(rows))


def turned(x: Tensor, angles: Tensor) -> Tensor:
    """Turn pairs of neighbouring channels of x (B, H, N, d) by angles (M, d / 2); later tokens stay (Su et al. 2021, eq. 34)."""
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    count = len(angles)
    a, b = x[:, :, :count].unflatten(-1, (-1, 2)).unbind(-1)
    spun = torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)
    return spun if count == x.shape[2] else torch.cat([spun, x[:, :, count:]], dim=2)
