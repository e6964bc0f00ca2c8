"""The video backbone: space-time patches, attention and positions as parts, blocks made by the conditioning.

Shapes: B rows, N tokens of a grid (T, H, W), D width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditzoo.interfaces import Conditioning, Stream
from ditzoo.patches import PatchTransformer
from ditzoo_video.attention import GroupedAttention

if TYPE_CHECKING:
    from ditzoo_video.spec import VideoDiTSpec


class VideoDiT(PatchTransformer):
    """A DiT over (B, C, T, H, W); any T, H and W that its patch divides."""

    packs = True

    def __init__(self, spec: VideoDiTSpec, conditioning: Conditioning) -> None:
        self.spec = spec
        self.pattern = spec.attention.build()
        self.places = spec.positions.build(spec.width, spec.heads, spec.grid_of(spec.input_size))
        super().__init__(spec, conditioning, patch=spec.patch, heads=spec.heads, mlp_ratio=spec.mlp_ratio, out_channels=spec.out_channels)

    def attention(self, width: int, index: int) -> nn.Module:
        return GroupedAttention(width, self.heads, self.pattern, index, qk_norm=self.spec.qk_norm)

    def table(self, grid: tuple[int, ...]) -> Tensor | None:
        return self.places.tables(grid).get(0)

    def angles(self, grid: tuple[int, ...]) -> Tensor | None:
        return self.places.angles(grid)

    def run(self, stream: Stream, lo: int, hi: int) -> Stream:
        tables = [self.places.tables(grid) for grid in stream.grids]
        for index in sorted(tables[0]):
            if max(lo, 1) <= index < hi:
                stream = super().run(stream, lo, index)
                table = torch.cat([one[index] for one in tables]).to(stream.tokens)
                beyond = stream.tokens.shape[1] - len(table)  # tokens that no grid has, such as a prompt's
                stream, lo = replace(stream, tokens=stream.tokens + F.pad(table, (0, 0, 0, beyond))), index
        return super().run(stream, lo, hi)
