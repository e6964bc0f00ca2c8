"""Joint attention: blocks of two streams, image tokens and prompt tokens, that look at both."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ditzoo.interfaces import BlockParts, Cond, Conditioning, Stream
from ditzoo.layers import Attention, ModulatedNorm, gated, modulate, zero_linear


class JointBlock(nn.Module):
    """The MM-DiT block (Esser et al. 2024, figure 2b).

    Of the last block the prompt's stream is only looked at: it has no gates, no output and no MLP there, and leaves as it came.
    """

    def __init__(self, parts: BlockParts, *, last: bool, dual: bool) -> None:
        super().__init__()
        width = parts.width
        self.norm = nn.LayerNorm(width, eps=parts.eps_attention, elementwise_affine=False)
        self.norm_mlp = nn.LayerNorm(width, eps=parts.eps_mlp, elementwise_affine=False)
        self.modulation = nn.Linear(width, (9 if dual else 6) * width)
        self.context_modulation = nn.Linear(width, (2 if last else 6) * width)
        zero_linear(self.modulation)
        zero_linear(self.context_modulation)
        self.attention, self.context_attention = _attention(parts), _attention(parts)
        if last:
            self.context_attention.out = nn.Identity()  # type: ignore[assignment]
        self.dual_attention = parts.attention() if dual else None
        self.mlp = parts.mlp()
        self.context_mlp = None if last else parts.mlp()

    def forward(self, stream: Stream) -> Stream:
        x, context = stream.tokens, stream.context
        assert context is not None, "enter() puts the prompt's tokens there"
        own = stream.over_tokens(stream.modulation(self.modulation))
        theirs = stream.over_context(stream.modulation(self.context_modulation))
        shift1, scale1, gate1, shift2, scale2, gate2, *dual = own.chunk(9 if self.dual_attention else 6, dim=-1)
        turns = theirs.chunk(2 if self.context_mlp is None else 6, dim=-1)
        normed = self.norm(x)
        seen, told = self._looked(modulate(normed, shift1, scale1), modulate(self.norm(context), *turns[:2]), stream)
        after = gated(x, gate1, seen)
        if self.dual_attention is not None:
            shift3, scale3, gate3 = dual
            after = gated(after, gate3, self.dual_attention(modulate(normed, shift3, scale3), stream))
        after = gated(after, gate2, self.mlp(modulate(self.norm_mlp(after), shift2, scale2), stream))
        if self.context_mlp is not None:
            gate, shift, scale, gate_mlp = turns[2:]
            context = gated(context, gate, told)
            context = gated(context, gate_mlp, self.context_mlp(modulate(self.norm_mlp(context), shift, scale), stream))
        return replace(stream, tokens=after, context=context)

    def _looked(self, image: Tensor, prompt: Tensor, stream: Stream) -> tuple[Tensor, Tensor]:
        """One attention over image and prompt tokens, those that the prompt's mask leaves out not looked at; split again and projected."""
        pairs = zip(self.attention.qkv(image), self.context_attention.qkv(prompt), strict=True)
        q, k, v = (torch.cat(pair, dim=2) for pair in pairs)  # the image first, as diffusers has it
        mask = stream.cond.mask
        if mask is not None:
            mask = stream.beside(mask)
            mask = torch.cat([mask.new_ones(len(mask), image.shape[1]), mask], 1)
        out = rearrange(self.attention.look(q, k, v, stream, mask), "b h n d -> b n (h d)")
        return self.attention.out(out[:, : image.shape[1]]), self.context_attention.out(out[:, image.shape[1] :])


def _attention(parts: BlockParts) -> Attention:
    made = parts.attention()
    assert isinstance(made, Attention), "joint attention needs queries, keys and values of both streams"
    return made


class JointAttention(Conditioning):
    """The prompt's tokens are a stream of their own; what modulates is time and the prompt's vector."""

    def __init__(self, dual: int) -> None:
        super().__init__()
        self.dual = dual

    def block(self, parts: BlockParts) -> nn.Module:
        return JointBlock(parts, last=parts.index == parts.count - 1, dual=parts.index < self.dual)

    def head_norm(self, width: int, eps: float = 1e-6) -> nn.Module:
        return ModulatedNorm(width, eps)

    def vector(self, time: Tensor, cond: Cond) -> Tensor:
        return F.silu(time + cond.vec)

    def enter(self, stream: Stream) -> Stream:
        stream = super().enter(stream)
        return replace(stream, context=stream.beside(stream.cond.tokens))
