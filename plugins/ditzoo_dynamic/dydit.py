"""DyDiT: heads, channels and tokens that are worth their time (Zhao et al. 2024, "Dynamic Diffusion Transformer").

The time chooses which heads of each attention and which groups of channels of each MLP are used; each token chooses whether the MLP
sees it. While training all is computed and multiplied by the choices, which pass gradients straight through. Without gradients, and
where all rows chose alike, as in a look of a run, weights are sliced and tokens gathered, so what was not chosen costs nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ditzoo.activations import gelu, gelu_
from ditzoo.errors import SpecError
from ditzoo.interfaces import BlockParts, Cond, Conditioning, Stream
from ditzoo.layers import Attention, Mlp, attend, zero_linear

OPEN = 1.0  # logits begin here: everything is chosen, and the network is the one that it was made of


class Choice(NamedTuple):
    """What is used: `hard` is 0 or 1; `soft` is the same number with the gradient of a sigmoid."""

    hard: Tensor
    soft: Tensor

    @classmethod
    def of(cls, logits: Tensor, *, at_least_one: bool) -> Choice:
        used = logits > 0
        if at_least_one:
            used = used | (logits == logits.amax(-1, keepdim=True))
        hard, sigmoid = used.to(logits.dtype), logits.sigmoid()
        return cls(hard, hard + sigmoid - sigmoid.detach())


class Router(nn.Linear):
    """A linear layer whose outputs are logits of choices; it begins with all chosen."""

    def __init__(self, width: int, choices: int) -> None:
        super().__init__(width, choices)
        zero_linear(self)
        nn.init.constant_(self.bias, OPEN)


class DynamicAttention(Attention):
    """Self-attention whose heads are chosen by the time."""

    def __init__(self, plain: nn.Module, width: int) -> None:
        if type(plain) is not Attention:
            raise SpecError(
                f"dydit slices ditzoo.layers.Attention, and this backbone has {type(plain).__name__}; choose another conditioning"
            )
        super().__init__(width, plain.heads)
        self.q, self.k, self.v, self.out = plain.q, plain.k, plain.v, plain.out
        self.norm_q, self.norm_k = plain.norm_q, plain.norm_k
        self.head_router = Router(width, plain.heads)

    def choose(self, stream: Stream) -> Choice:
        """Return the heads (B, H)."""
        return Choice.of(self.head_router(F.silu(stream.time)), at_least_one=True)

    def forward(self, x: Tensor, stream: Stream | None = None, *, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        if stream is None:
            return super().forward(x, context=context, mask=mask)
        heads = self.choose(stream)
        keep = None if mask is None else mask[:, None, None, :]
        used = _alike(heads.hard)
        if used is None:
            out = attend(*self.qkv(x), keep) * heads.soft[:, :, None, None]
            return self.out(rearrange(out, "b h n d -> b n (h d)"))
        rows = _members(used, self.heads, self.q.out_features)
        parts = (F.linear(x, layer.weight[rows], None if layer.bias is None else layer.bias[rows]) for layer in (self.q, self.k, self.v))
        q, k, v = (rearrange(z, "b n (h d) -> b h n d", h=len(used)) for z in parts)
        out = attend(self.norm_q(q), self.norm_k(k), v, keep)
        return F.linear(rearrange(out, "b h n d -> b n (h d)"), self.out.weight[:, rows], self.out.bias)


class DynamicMlp(Mlp):
    """An MLP whose channels are chosen in groups by the time, and which sees the tokens that choose it."""

    def __init__(self, plain: nn.Module, width: int, groups: int) -> None:
        if type(plain) is not Mlp:
            raise SpecError(f"dydit slices ditzoo.layers.Mlp, and this backbone has {type(plain).__name__}; choose another conditioning")
        hidden = plain.fc1.out_features
        if hidden % groups:
            raise SpecError(f"conditioning.groups={groups} does not divide the MLP's {hidden} channels; choose one that does")
        super().__init__(width, hidden)
        self.fc1, self.fc2, self.groups = plain.fc1, plain.fc2, groups
        self.channel_router, self.token_router = Router(width, groups), Router(width, 1)

    def choose(self, stream: Stream) -> tuple[Choice, Choice]:
        """Return the groups of channels (B, G) and the tokens (B, N), of a stream as it enters the block."""
        seen = F.layer_norm(stream.tokens, stream.tokens.shape[-1:])
        channels = Choice.of(self.channel_router(F.silu(stream.time)), at_least_one=True)
        return channels, Choice.of(self.token_router(seen)[..., 0], at_least_one=False)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        if stream is None:
            raise SpecError(
                "this conditioning calls mlp(tokens), and dydit needs mlp(tokens, stream) to know the time; choose another as its inner"
            )
        channels, tokens = self.choose(stream)
        used = _alike(channels.hard)
        if used is None:
            hidden = gelu(self.fc1(x)).unflatten(-1, (self.groups, -1)) * channels.soft[:, None, :, None]
            return self.fc2(hidden.flatten(-2)) * tokens.soft[..., None]
        rows = _members(used, self.groups, self.fc1.out_features)
        chosen = tokens.hard.flatten().nonzero()[:, 0]
        hidden = gelu_(F.linear(x.flatten(0, 1)[chosen], self.fc1.weight[rows], self.fc1.bias[rows]))
        out = x.new_zeros(x.shape[0] * x.shape[1], x.shape[2])
        return out.index_copy_(0, chosen, F.linear(hidden, self.fc2.weight[:, rows], self.fc2.bias)).view_as(x)


def _alike(hard: Tensor) -> Tensor | None:
    """Return the indices that all rows (B, K) chose, if they chose alike and no gradient is asked for; on meta nothing is chosen."""
    if torch.is_grad_enabled() or hard.is_meta or not bool((hard == hard[:1]).all()):
        return None
    return hard[0].nonzero()[:, 0]


def _members(used: Tensor, groups: int, channels: int) -> Tensor:
    """Return the channels of the used groups."""
    each = channels // groups
    return (used[:, None] * each + torch.arange(each, device=used.device)).flatten()


class Dynamic(Conditioning):
    """Another conditioning, whose blocks get attentions and MLPs that choose."""

    constant_cost = False

    def __init__(self, inner: Conditioning, groups: int) -> None:
        super().__init__()
        self.inner, self.groups = inner, groups

    def block(self, parts: BlockParts) -> nn.Module:
        return self.inner.block(
            replace(
                parts,
                attention=lambda: DynamicAttention(parts.attention(), parts.width),
                mlp=lambda: DynamicMlp(parts.mlp(), parts.width, self.groups),
            )
        )

    def head_norm(self, width: int, eps: float = 1e-6) -> nn.Module:
        return self.inner.head_norm(width, eps)

    def vector(self, time: Tensor, cond: Cond) -> Tensor | None:
        return self.inner.vector(time, cond)

    def enter(self, stream: Stream) -> Stream:
        return self.inner.enter(stream)

    def leave(self, stream: Stream) -> Stream:
        return self.inner.leave(stream)
