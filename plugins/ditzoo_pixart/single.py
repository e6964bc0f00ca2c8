"""adaLN-single: one modulation for all blocks, a table for each, and cross-attention to the prompt.

Shapes: B rows, N tokens, L prompt tokens, D width.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ditzoo.interfaces import BlockParts, Conditioning, Stream
from ditzoo.layers import Attention, TimeEmbedding, modulate, zero_linear


def table(rows: int, width: int) -> nn.Parameter:
    """Return vectors (rows, D) as they begin in the published code."""
    return nn.Parameter(torch.randn(rows, width) / width**0.5)


class SingleBlock(nn.Module):
    """Modulated self-attention, plain cross-attention to the prompt if it `crosses`, modulated MLP (Chen et al. 2023, figure 4)."""

    tokens_apart = True

    def __init__(self, parts: BlockParts, *, crosses: bool = True) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(parts.width, eps=parts.eps_attention, elementwise_affine=False)
        self.attention = parts.attention()
        self.cross = Attention(parts.width, parts.heads) if crosses else None
        self.norm2 = nn.LayerNorm(parts.width, eps=parts.eps_mlp, elementwise_affine=False)
        self.mlp = parts.mlp()
        self.table = table(6, parts.width)
        if self.cross is not None:
            zero_linear(self.cross.out)

    def forward(self, stream: Stream) -> Stream:
        x, cond = stream.tokens, stream.cond
        assert stream.vec is not None, "enter() makes it"
        turns = (self.table + rearrange(stream.vec, "b (c d) -> b c d", c=6)).unbind(1)
        shift1, scale1, gate1, shift2, scale2, gate2 = map(stream.over_tokens, turns)  # (B, 1, D) each
        x = x + gate1 * self.attention(modulate(self.norm1(x), shift1, scale1), stream)
        if self.cross is not None:
            x = x + self.cross(x, context=stream.beside(cond.tokens), mask=stream.sees(cond.mask, cond.tokens.shape[1]))
        x = x + gate2 * self.mlp(modulate(self.norm2(x), shift2, scale2), stream)
        return replace(stream, tokens=x)


class TableNorm(nn.Module):
    """The norm before the head: shifted and scaled by the time and a table."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=eps, elementwise_affine=False)
        self.table = table(2, width)

    def forward(self, tokens: Tensor, stream: Stream) -> Tensor:
        """Tokens (B, N, D) -> (B, N, D)."""
        shift, scale = map(stream.over_tokens, (self.table + stream.time[:, None]).unbind(1))
        return modulate(self.norm(tokens), shift, scale)


class AdaLNSingle(Conditioning):
    """PixArt's conditioning; with `pixels` to a token the picture's size joins the time."""

    def __init__(self, width: int, pixels: int | None, every: int = 1) -> None:
        super().__init__()
        self.pixels, self.every = pixels, every
        self.modulation = nn.Linear(width, 6 * width)
        self.resolution, self.aspect_ratio = (None if pixels is None else TimeEmbedding(width // 3) for _ in range(2))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def block(self, parts: BlockParts) -> nn.Module:
        return SingleBlock(parts, crosses=parts.index % self.every == 0)

    def head_norm(self, width: int, eps: float = 1e-6) -> nn.Module:
        return TableNorm(width, eps)

    def enter(self, stream: Stream) -> Stream:
        time = stream.time + torch.stack([self.size(grid, stream.time) for grid in stream.grids])
        return replace(stream, time=time, vec=self.modulation(F.silu(time)))

    def size(self, grid: tuple[int, ...], like: Tensor) -> Tensor:
        """Return the embedded size (D,) of a picture of so many tokens: height and width, and their ratio; zeros where it is not told."""
        if self.resolution is None or self.aspect_ratio is None or self.pixels is None:
            return like.new_zeros(like.shape[-1])
        extents = torch.tensor([float(extent * self.pixels) for extent in grid[-2:]], device=like.device)
        return torch.cat([self.resolution(extents).flatten(), self.aspect_ratio(extents[:1] / extents[1:]).flatten()])
