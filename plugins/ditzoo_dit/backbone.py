"""The DiT backbone: patches, blocks made by the conditioning, a linear head.

Shapes: B rows, C latent channels, (H, W) latent, N tokens, D width, p patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ditzoo.interfaces import Backbone, BlockParts, Cond, Conditioning, Foreseen, Stream
from ditzoo.layers import Attention, Mlp, TimeEmbedding, init_linears, patchify, sincos_table, unpatchify, zero_linear

if TYPE_CHECKING:
    from ditzoo_dit.spec import DiTSpec

# What diffusers' DiT computes otherwise than the original code: frequencies i/127 for i/128, and norm3's epsilon.
DIFFUSERS_FREQUENCY_SHIFT = 1.0
DIFFUSERS_MLP_EPS = 1e-5


class DiT(Backbone):
    """Peebles and Xie 2022; begins as the published code does, so with adaLN-Zero every block is the identity."""

    head_modules = ("head_norm", "head_linear")

    def __init__(self, spec: DiTSpec, conditioning: Conditioning) -> None:
        super().__init__()
        self.spec, self.exits = spec, spec.exits
        theirs = spec.numerics == "diffusers"
        width, patch = spec.width, spec.patch

        self.patch_embed = nn.Linear(spec.in_channels * patch**2, width)
        init_linears(self.patch_embed)
        self.time_embed = TimeEmbedding(width, shift=DIFFUSERS_FREQUENCY_SHIFT if theirs else 0.0)
        for layer in (self.time_embed.fc1, self.time_embed.fc2):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.register_buffer("position_table", sincos_table(spec.grid, width), persistent=False)

        self.conditioning, self.constant_cost = conditioning, conditioning.constant_cost
        attention = partial(Attention, width, spec.heads)
        mlp = partial(Mlp, width, int(width * spec.mlp_ratio))
        parts = BlockParts(width, spec.heads, attention, mlp, eps_mlp=DIFFUSERS_MLP_EPS if theirs else 1e-6)
        self.blocks = nn.ModuleList(conditioning.block(replace(parts, index=i, count=spec.depth)) for i in range(spec.depth))
        self.head_norm = conditioning.head_norm(width)
        self.head_linear = nn.Linear(width, spec.out_channels * patch**2)
        zero_linear(self.head_linear)

    def positions(self, grid: Sequence[int]) -> Tensor:
        """Return the position table (N, D) of a grid, as `spec.positions` has it for grids not trained on."""
        table: Tensor = self.position_table  # type: ignore[assignment]
        if tuple(grid) == self.spec.grid:
            return table
        scale = [own / n for own, n in zip(self.spec.grid, grid, strict=True)] if self.spec.positions == "interpolate" else None
        return sincos_table(grid, self.spec.width, scale=scale).to(table)

    def begin(self, x: Tensor, t: Tensor, cond: Cond) -> Stream:
        return self.begin_with(x, cond, self.foresee(t, cond, x.shape[2:]))

    def foresee(self, t: Tensor, cond: Cond, size: Sequence[int]) -> Foreseen:
        if problem := self.spec.check_size(size):
            raise ValueError(problem)
        time = self.time_embed(t)  # (B, D)
        positions = self.positions([extent // self.spec.patch for extent in size])  # (N, D)
        return Foreseen(time, self.conditioning.vector(time, cond), positions)

    def begin_with(self, x: Tensor, cond: Cond, foreseen: Foreseen) -> Stream:
        grid = tuple(extent // self.spec.patch for extent in x.shape[2:])
        time, vec, positions = foreseen
        tokens = self.patch_embed(patchify(x, (self.spec.patch,) * 2)) + positions  # (B, N, D)
        return self.conditioning.enter(Stream(tokens, time, cond, grid, vec=vec, positions=positions))

    def head(self, stream: Stream, exit: int | None = None) -> Tensor:
        stream = self.conditioning.leave(stream)
        tokens = self.head_linear(self.head_norm(stream.tokens, stream))  # (B, N, p * p * out)
        return unpatchify(tokens, stream.grid, (self.spec.patch,) * 2)
