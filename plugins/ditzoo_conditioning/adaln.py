"""Adaptive layer norm, with and without zero-initialised gates.

Time and prompt are summed into one vector (B, D); a linear layer of each block makes shifts, scales and gates of it.
"""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn

from ditzoo.interfaces import BlockParts, Cond, Conditioning, Stream
from ditzoo.layers import ModulatedNorm, gated, init_linears, modulate, zero_linear


class AdaLNBlock(nn.Module):
    """x + attention(modulated norm x), then x + mlp(modulated norm x); four vectors: shift, scale, shift, scale."""

    chunks = 4
    tokens_apart = True

    def __init__(self, parts: BlockParts) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(parts.width, eps=parts.eps_attention, elementwise_affine=False)
        self.attention = parts.attention()
        self.norm2 = nn.LayerNorm(parts.width, eps=parts.eps_mlp, elementwise_affine=False)
        self.mlp = parts.mlp()
        self.modulation = nn.Linear(parts.width, self.chunks * parts.width)
        init_linears(self.modulation)

    def forward(self, stream: Stream) -> Stream:
        x = stream.tokens
        shift1, scale1, shift2, scale2 = stream.over_tokens(stream.modulation(self.modulation)).chunk(4, dim=-1)  # (B, 1, D) each
        x = x + self.attention(modulate(self.norm1(x), shift1, scale1), stream)
        x = x + self.mlp(modulate(self.norm2(x), shift2, scale2), stream)
        return replace(stream, tokens=x)


class AdaLNZeroBlock(AdaLNBlock):
    """As adaLN, each branch times a gate; the modulation starts at zero, so the block starts as the identity."""

    chunks = 6

    def __init__(self, parts: BlockParts) -> None:
        super().__init__(parts)
        zero_linear(self.modulation)

    def forward(self, stream: Stream) -> Stream:
        x = stream.tokens
        turns = stream.over_tokens(stream.modulation(self.modulation))  # (B, 1, 6 D)
        shift1, scale1, gate1, shift2, scale2, gate2 = turns.chunk(6, dim=-1)
        x = gated(x, gate1, self.attention(modulate(self.norm1(x), shift1, scale1), stream))
        x = gated(x, gate2, self.mlp(modulate(self.norm2(x), shift2, scale2), stream))
        return replace(stream, tokens=x)


class AdaLN(Conditioning):
    """adaLN of the DiT paper."""

    def block(self, parts: BlockParts) -> nn.Module:
        return AdaLNBlock(parts)

    def head_norm(self, width: int, eps: float = 1e-6) -> nn.Module:
        return ModulatedNorm(width, eps)

    def vector(self, time: Tensor, cond: Cond) -> Tensor:
        return F.silu(time + cond.vec)  # the SiLU that all modulations share


class AdaLNZero(AdaLN):
    """adaLN-Zero of the DiT paper."""

    def block(self, parts: BlockParts) -> nn.Module:
        return AdaLNZeroBlock(parts)
