"""Conditioning by tokens: time and prompt join the sequence, or are looked at by cross-attention.

Both use plain layer norms with weights, in the blocks and before the head, as a ViT does.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ditzoo.interfaces import BlockParts, Conditioning, Stream
from ditzoo.layers import Attention


def time_and_prompt(stream: Stream) -> tuple[Tensor, Tensor | None]:
    """Return time and prompt as one sequence (B, 1 + L, D), and which of it counts (B, 1 + L)."""
    tokens = torch.cat([stream.time[:, None], stream.cond.tokens], dim=1)
    mask = stream.cond.mask
    return tokens, None if mask is None else torch.cat([mask.new_ones(len(mask), 1), mask], dim=1)


class ViTBlock(nn.Module):
    """x + attention(norm x), then x + mlp(norm x). Masked prompt tokens in the sequence are not attended to."""

    tokens_apart = True

    def __init__(self, parts: BlockParts) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(parts.width, eps=parts.eps_attention)
        self.attention = parts.attention()
        self.norm2 = nn.LayerNorm(parts.width, eps=parts.eps_mlp)
        self.mlp = parts.mlp()

    def forward(self, stream: Stream) -> Stream:
        x, (_, mask) = stream.tokens, time_and_prompt(stream)
        if mask is None:
            x = x + self.attention(self.norm1(x), stream)
        else:
            extra = stream.beside(mask)
            own = mask.new_ones(len(extra), stream.length - extra.shape[1])
            x = x + self.attention(self.norm1(x), stream, mask=torch.cat([own, extra], dim=1))
        return replace(stream, tokens=x + self.mlp(self.norm2(x), stream))


class CrossAttentionBlock(nn.Module):
    """Self-attention, cross-attention to time and prompt, MLP; each with its norm."""

    tokens_apart = True

    def __init__(self, parts: BlockParts) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(parts.width, eps=parts.eps_attention)
        self.attention = parts.attention()
        self.norm_cross = nn.LayerNorm(parts.width, eps=parts.eps_attention)
        self.cross = Attention(parts.width, parts.heads)
        self.norm2 = nn.LayerNorm(parts.width, eps=parts.eps_mlp)
        self.mlp = parts.mlp()

    def forward(self, stream: Stream) -> Stream:
        x = stream.tokens
        context, mask = time_and_prompt(stream)
        x = x + self.attention(self.norm1(x), stream)
        x = x + self.cross(self.norm_cross(x), context=stream.beside(context), mask=stream.sees(mask, context.shape[1]))
        return replace(stream, tokens=x + self.mlp(self.norm2(x), stream))


class PlainHeadNorm(nn.Module):
    """A layer norm that does not look at the stream."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(self, tokens: Tensor, stream: Stream) -> Tensor:
        return self.norm(tokens)


class CrossAttention(Conditioning):
    """Cross-attention of the DiT paper: time and prompt are a sequence of their own (length two for a label)."""

    def block(self, parts: BlockParts) -> nn.Module:
        return CrossAttentionBlock(parts)

    def head_norm(self, width: int, eps: float = 1e-6) -> nn.Module:
        return PlainHeadNorm(width, eps)


class InContext(Conditioning):
    """In-context conditioning of the DiT paper: time and prompt follow the image's tokens, and leave before the head."""

    def block(self, parts: BlockParts) -> nn.Module:
        return ViTBlock(parts)

    def head_norm(self, width: int, eps: float = 1e-6) -> nn.Module:
        return PlainHeadNorm(width, eps)

    def enter(self, stream: Stream) -> Stream:
        extra, _ = time_and_prompt(stream)
        return replace(stream, tokens=torch.cat([stream.tokens, stream.beside(extra)], dim=1))

    def leave(self, stream: Stream) -> Stream:
        return replace(stream, tokens=stream.tokens[:, : stream.count])
