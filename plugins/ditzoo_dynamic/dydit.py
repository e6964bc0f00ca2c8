"""DyDiT: heads, channels and tokens that are worth their time (Zhao et al. 2024, "Dynamic Diffusion Transformer").

The time chooses which heads of each attention and which groups of channels of each MLP are used; each token chooses whether the MLP
sees it. While training all is computed and multiplied by the choices, which pass gradients straight through. Without gradients, and
where all rows chose alike, as in a look of a run, weights are sliced and tokens gathered, so what was not chosen costs nothing.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ditzoo.activations import gelu
from ditzoo.errors import SpecError
from ditzoo.interfaces import BlockParts, Cond, Conditioning, Stream
from ditzoo.layers import Attention, Mlp, zero_linear
from ditzoo.slices import Slicing, alike, some_channels, some_heads

LEAST, SIZES = 8, 32  # tokens are gathered in multiples of so many, and in about so many different numbers
EPS = 1e-5  # of the norm that tokens are seen through
OPEN = 1.0  # logits begin here: everything is chosen, and the network is the one that it was made of


class Choice(NamedTuple):
    """What is used: `hard` is 0 or 1."""

    hard: Tensor
    logits: Tensor

    @classmethod
    def of(cls, logits: Tensor, *, at_least_one: bool) -> Choice:
        used = logits > 0
        if at_least_one:
            used = used | (logits == logits.amax(-1, keepdim=True))
        return cls(used.to(logits.dtype), logits)

    @property
    def soft(self) -> Tensor:
        """The same numbers with the gradient of a sigmoid."""
        sigmoid = self.logits.sigmoid()
        return self.hard + sigmoid - sigmoid.detach()


class Router(nn.Linear):
    """A linear layer whose outputs are logits of choices; it begins with all chosen."""

    def __init__(self, width: int, choices: int) -> None:
        super().__init__(width, choices)
        zero_linear(self)
        nn.init.constant_(self.bias, OPEN)

    def of_normed(self, tokens: Tensor) -> Tensor:
        """Return logits (B, N, choices) of layer-normed tokens (B, N, D), which are not made: that takes longer than the rest."""
        mean, width = tokens.mean(-1, keepdim=True), tokens.shape[-1]
        variance = torch.linalg.vector_norm(tokens, dim=-1, keepdim=True).square() / width - mean.square()
        centred = F.linear(tokens, self.weight) - mean * self.weight.sum(-1)
        return centred * (variance.clamp(min=0) + EPS).rsqrt() + self.bias


class DynamicAttention(Slicing, Attention):
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
        used = alike(heads.hard, self.q, self.k, self.v, self.out)
        if used is not None:
            return self.smaller(used, partial(some_heads, self))(x, context=context, mask=mask)
        out = self.look(*self.qkv(x, context), stream, mask) * heads.soft[:, :, None, None]
        return self.out(rearrange(out, "b h n d -> b n (h d)"))


class DynamicMlp(Slicing, Mlp):
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
        channels = Choice.of(self.channel_router(F.silu(stream.time)), at_least_one=True)
        return channels, Choice.of(self.token_router.of_normed(stream.tokens)[..., 0], at_least_one=False)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        if stream is None:
            raise SpecError(
                "this conditioning calls mlp(tokens), and dydit needs mlp(tokens, stream) to know the time; choose another as its inner"
            )
        channels, tokens = self.choose(stream)
        used = alike(channels.hard, self.fc1, self.fc2)
        if used is None:
            hidden = gelu(self.fc1(x)).unflatten(-1, (self.groups, -1)) * channels.soft[:, None, :, None]
            return self.fc2(hidden.flatten(-2)) * tokens.soft[..., None]
        chosen, out = tokens.hard.flatten().nonzero()[:, 0], torch.zeros_like(x)
        if len(chosen):
            made = self.smaller(used, partial(some_channels, self, count=self.groups))(gathered(x.flatten(0, 1), chosen)[None])[0]
            out.view(-1, x.shape[-1]).index_copy_(0, chosen, made[: len(chosen)])
        return out


def gathered(tokens: Tensor, chosen: Tensor) -> Tensor:
    """Return the chosen of some tokens (N, D), and some that do not count, so that there are few different numbers of them.

    Libraries of products prepare themselves for each number that they have not seen, which takes longer than small products do.
    """
    step = max(LEAST, len(tokens) // SIZES)
    count = -(-len(chosen) // step) * step
    return tokens.index_select(0, torch.cat([chosen, chosen[:1].expand(count - len(chosen))]))


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
