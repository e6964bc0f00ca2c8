"""The MM-DiT backbone: patches, positions cropped from the centre of a table, blocks made by the conditioning, a linear head.

Shapes: B rows, C latent channels, (H, W) latent, N tokens, D width, p patch, M side of the position table.
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
    from ditzoo_mmdit.spec import MMDiTSpec


class MMDiT(Backbone):
    """Esser et al. 2024; the prompt's own projections are a part of the prompt."""

    head_modules = ("head_norm", "head_linear")

    def __init__(self, spec: MMDiTSpec, conditioning: Conditioning) -> None:
        super().__init__()
        self.spec, self.exits = spec, spec.exits
        width, patch = spec.width, spec.patch
        self.patch_embed = nn.Linear(spec.in_channels * patch**2, width)
        init_linears(self.patch_embed)
        self.time_embed = TimeEmbedding(width)
        for layer in (self.time_embed.fc1, self.time_embed.fc2):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        scale = [extent / patch / spec.table for extent in spec.input_size]
        table = sincos_table((spec.table, spec.table), width, scale=scale)  # (M * M, D); published checkpoints hold theirs
        if spec.positions == "learned":
            self.position_table = nn.Parameter(table)
        else:
            self.register_buffer("position_table", table)
        self.conditioning, self.constant_cost = conditioning, conditioning.constant_cost
        attention = partial(Attention, width, spec.heads, qk_norm=spec.qk_norm)
        mlp = partial(Mlp, width, int(width * spec.mlp_ratio))
        parts = BlockParts(width, spec.heads, attention, mlp)
        self.blocks = nn.ModuleList(conditioning.block(replace(parts, index=i, count=spec.depth)) for i in range(spec.depth))
        self.head_norm = conditioning.head_norm(width)
        self.head_linear = nn.Linear(width, spec.in_channels * patch**2)
        zero_linear(self.head_linear)

    def positions(self, grid: Sequence[int]) -> Tensor:
        """Return the positions (N, D) of a grid, those in the middle of the table."""
        side = self.spec.table
        top, left = ((side - extent) // 2 for extent in grid)
        return self.position_table.view(side, side, -1)[top : top + grid[0], left : left + grid[1]].flatten(0, 1)

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
        tokens = self.head_linear(self.head_norm(stream.tokens, stream))  # (B, N, p * p * C)
        return unpatchify(tokens, stream.grid, (self.spec.patch,) * 2)
