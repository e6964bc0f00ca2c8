"""A transformer over the patches of a latent: what DiT, MM-DiT and a video DiT have alike, for backbones to begin from.

Shapes: B rows, C latent channels, `*S` latent axes, N tokens, D width.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from ditzoo.interfaces import Backbone, BlockParts, Cond, Conditioning, Stream
from ditzoo.layers import Attention, Mlp, TimeEmbedding, init_linears, patchify, unpatchify, zero_linear
from ditzoo.specs import BackboneSpec


class PatchTransformer(Backbone):
    """Patches, positions, blocks made by the conditioning, a linear head; it begins as the published DiT does.

    A subclass says its `positions`, and may say another `attention`. `patch` has a side for each latent axis.
    """

    head_modules = ("head_norm", "head_linear")

    def __init__(
        self,
        spec: BackboneSpec,
        conditioning: Conditioning,
        *,
        patch: Sequence[int],
        heads: int,
        mlp_ratio: float,
        out_channels: int,
        frequency_shift: float = 0.0,
        eps_mlp: float = 1e-6,
    ) -> None:
        super().__init__()
        self.exits, self.patch, self.heads, self.size_problem = spec.exits, tuple(patch), heads, spec.check_size
        width, cell = spec.width, math.prod(patch)
        self.patch_embed = nn.Linear(spec.in_channels * cell, width)
        init_linears(self.patch_embed)
        self.time_embed = TimeEmbedding(width, shift=frequency_shift)
        for layer in (self.time_embed.fc1, self.time_embed.fc2):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.conditioning, self.constant_cost = conditioning, conditioning.constant_cost
        mlp = partial(Mlp, width, int(width * mlp_ratio))
        self.blocks = nn.ModuleList(
            conditioning.block(
                BlockParts(width, heads, partial(self.attention, width, index), mlp, eps_mlp=eps_mlp, index=index, count=spec.depth)
            )
            for index in range(spec.depth)
        )
        self.head_norm = conditioning.head_norm(width)
        self.head_linear = nn.Linear(width, out_channels * cell)
        zero_linear(self.head_linear)

    def attention(self, width: int, index: int) -> nn.Module:
        """Make an attention of block `index`, called as `attention(tokens, stream)`."""
        return Attention(width, self.heads)

    @abstractmethod
    def placed(self, tokens: Tensor, grid: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
        """Return tokens (B, N, D) that know their place, and what positions the blocks are told."""

    def begin(self, x: Tensor, t: Tensor, cond: Cond) -> Stream:
        if problem := self.size_problem(x.shape[2:]):
            raise ValueError(problem)
        grid = tuple(extent // side for extent, side in zip(x.shape[2:], self.patch, strict=True))
        tokens, positions = self.placed(self.patch_embed(patchify(x, self.patch)), grid)
        return self.conditioning.enter(Stream(tokens, self.time_embed(t), cond, grid, positions=positions))

    def head(self, stream: Stream, exit: int | None = None) -> Tensor:
        stream = self.conditioning.leave(stream)
        tokens = self.head_linear(self.head_norm(stream.tokens, stream))  # (B, N, prod(patch) * out)
        return unpatchify(tokens, stream.grid, self.patch)
