"""A transformer over the patches of a latent: what DiT, MM-DiT and a video DiT have alike, for backbones to begin from.

Shapes: B rows, C latent channels, `*S` latent axes, N tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ditzoo.interfaces import Backbone, BlockParts, Cond, Conditioning, Foreseen, Stream
from ditzoo.layers import Attention, Mlp, TimeEmbedding, init_linears, patchify, unpatchify, zero_linear
from ditzoo.packing import Pack
from ditzoo.specs import BackboneSpec


class PatchTransformer(Backbone):
    """Patches, positions, blocks made by the conditioning, a linear head; it begins as the published DiT does.

    A subclass says what `table` or `angles` places have, and may say another `attention`. `patch` has a side for each latent axis.
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
        self.packs = "packs" in spec.provides_now  # its attention keeps the clips of a pack apart
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

    def table(self, grid: tuple[int, ...]) -> Tensor | None:
        """Return what is added to the tokens of a grid, (N, D), or None."""
        return None

    def angles(self, grid: tuple[int, ...]) -> Tensor | None:
        """Return what attentions are told of the places on a grid, with a row a token, or None."""
        return None

    def begin(self, x: Tensor | Pack, t: Tensor, cond: Cond) -> Stream:
        """Make tokens of latents (B, C, *S), or of clips of several sizes packed in one row, for which t and cond have a row a clip."""
        if isinstance(x, Pack) and not self.packs:
            raise ValueError(f"{type(self).__name__} has no attention that keeps packed clips apart; give it batches of one size")
        sizes: list[Sequence[int]] = [x.shape[2:]] if isinstance(x, Tensor) else list(map(self._size, x.packing.grids))
        return self.begin_with(x, cond, self._foreseen(t, cond, sizes))

    def foresee(self, t: Tensor, cond: Cond, size: Sequence[int]) -> Foreseen:
        return self._foreseen(t, cond, [size])

    def begin_with(self, x: Tensor | Pack, cond: Cond, foreseen: Foreseen) -> Stream:
        if isinstance(x, Pack):
            packing, cells, grid = x.packing, x.patches.flatten(1)[None], x.packing.grids[0]
        else:
            packing, cells, grid = None, patchify(x, self.patch), self._grid(x.shape[2:])
        tokens = self.patch_embed(cells)
        if foreseen.table is not None:
            tokens = tokens + foreseen.table.to(tokens)
        own = Stream(tokens, foreseen.time, cond, grid, vec=foreseen.vec, positions=foreseen.positions, packing=packing)
        return self.conditioning.enter(own)

    def _grid(self, size: Sequence[int]) -> tuple[int, ...]:
        return tuple(extent // side for extent, side in zip(size, self.patch, strict=True))

    def _size(self, grid: Sequence[int]) -> tuple[int, ...]:
        return tuple(n * side for n, side in zip(grid, self.patch, strict=True))

    def _foreseen(self, t: Tensor, cond: Cond, sizes: Sequence[Sequence[int]]) -> Foreseen:
        for size in sizes:
            if problem := self.size_problem(size):
                raise ValueError(problem)
        time, grids = self.time_embed(t), [self._grid(size) for size in sizes]
        tables, angles = ([made for grid in grids if (made := make(grid)) is not None] for make in (self.table, self.angles))
        table = torch.cat(tables) if tables else None
        positions = torch.cat(angles).to(time.device) if angles else None
        return Foreseen(time, self.conditioning.vector(time, cond), table, positions)

    def pack(self, clips: Sequence[Tensor]) -> Pack:
        return Pack.of(clips, self.patch)

    def head(self, stream: Stream, exit: int | None = None) -> Tensor:
        """Read (B, C or 2C, *S), or the patches of packed clips (N, C or 2C, *P), which `Pack.clips` puts together."""
        stream = self.conditioning.leave(stream)
        tokens = self.head_linear(self.head_norm(stream.tokens, stream))  # (B, N, prod(patch) * out)
        if stream.packing is None:
            return unpatchify(tokens, stream.grid, self.patch)
        return tokens[0].unflatten(-1, (*self.patch, -1)).movedim(-1, 1)
