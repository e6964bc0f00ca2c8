"""Self-attention within the groups of a pattern, queries and keys turned by rotary angles where positions have them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ditzoo.interfaces import Pattern, Stream
from ditzoo.layers import Attention


class GroupedAttention(Attention):
    """Attention of block `index` of a network over a grid. Tokens behind those of the grid are seen by every group, and see all."""

    def __init__(self, width: int, heads: int, pattern: Pattern, index: int, qk_norm: Literal["rms"] | None = None) -> None:
        super().__init__(width, heads, qk_norm=qk_norm)
        self.pattern, self.index = pattern, index

    def forward(self, x: Tensor, stream: Stream | None = None, *, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """X (B, N, D), those of the stream's grid first, mask (B, N) of the keys that count -> (B, N, D)."""
        assert stream is not None, "a grid is needed to tell the groups"
        assert context is None, "this is self-attention"
        q, k, v = self.qkv(x)
        if stream.positions is not None:
            q, k = turned(q, stream.positions), turned(k, stream.positions)
        out = within(self.pattern.groups(stream.grid, self.index), q, k, v, mask)
        return self.out(rearrange(out, "b h n d -> b n (h d)"))


def within(groups: Sequence[Tensor], q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return attention (B, H, N, d) where tokens look at those of their group, and at those that no group has, which look at all.

    `groups` are indices (G, n) over the first tokens; `mask` (B, N) says which keys count.
    """
    counted = sum(rows.numel() for rows in groups)
    keep = None if mask is None else mask[:, None, None]
    if len(groups) == 1 and len(groups[0]) == 1:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=keep)
    beyond = torch.arange(counted, q.shape[2], device=q.device)
    parts, places = [], []
    for rows in groups:
        rows = rows.to(q.device)
        keys = rows if not len(beyond) else torch.cat([rows, beyond.expand(len(rows), -1)], dim=1)
        own, theirs, values = (rearrange(z[:, :, index], "b h g n d -> (b g) h n d") for z, index in ((q, rows), (k, keys), (v, keys)))
        some = None if mask is None else rearrange(mask[:, keys], "b g n -> (b g) 1 1 n")
        out = F.scaled_dot_product_attention(own, theirs, values, attn_mask=some)
        parts.append(rearrange(out, "(b g) h n d -> b h (g n) d", g=len(rows)))
        places.append(rows.flatten())
    if len(beyond):
        parts.append(F.scaled_dot_product_attention(q[:, :, counted:], k, v, attn_mask=keep))
        places.append(beyond)
    return torch.cat(parts, dim=2)[:, :, torch.argsort(torch.cat(places))]


def turned(x: Tensor, angles: Tensor) -> Tensor:
    """Turn pairs of neighbouring channels of x (B, H, N, d) by angles (M, d / 2); later tokens stay (Su et al. 2021, eq. 34)."""
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    count = len(angles)
    a, b = x[:, :, :count].unflatten(-1, (-1, 2)).unbind(-1)
    spun = torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)
    return spun if count == x.shape[2] else torch.cat([spun, x[:, :, count:]], dim=2)


def cost(groups: Sequence[Tensor]) -> int:
    """Return how many pairs of tokens look at one another."""
    return sum(math.prod(rows.shape) * rows.shape[1] for rows in groups)
