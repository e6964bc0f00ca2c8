"""The video backbone: space-time patches, attention and positions as parts, blocks made by the conditioning.

Shapes: B rows, N tokens of a grid (T, H, W), D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditzoo.interfaces import Cond, Conditioning, Foreseen, Stream
from ditzoo.packing import Pack, numbered
from ditzoo.patches import PatchTransformer
from ditzoo_video.attention import GroupedAttention
from ditzoo_video.frames import FrameTimes, clip_times

if TYPE_CHECKING:
    from ditzoo_video.spec import VideoDiTSpec


class VideoDiT(PatchTransformer):
    """A DiT over (B, C, T, H, W); any T, H and W that its patch divides."""

    def __init__(self, spec: VideoDiTSpec, conditioning: Conditioning) -> None:
        self.spec = spec
        self.pattern = spec.attention.build()
        self.places = spec.positions.build(spec.width, spec.heads, spec.grid_of(spec.input_size))
        super().__init__(spec, conditioning, patch=spec.patch, heads=spec.heads, mlp_ratio=spec.mlp_ratio, out_channels=spec.out_channels)
        self.frame_times = FrameTimes(spec.width, spec.patch[0]) if spec.frame_times else None

    def begin(self, x: Tensor | Pack, t: Tensor, cond: Cond) -> Stream:
        """As of other backbones; with `frame_times` t may also be a time a frame: (B, T), or of a pack (F,) for the frames of all clips."""
        grids = x.packing.grids if isinstance(x, Pack) else (self.spec.grid_of(x.shape[2:]),) * len(x)
        lengths = [grid[0] * self.spec.patch[0] for grid in grids]
        by_frame = t.dim() == 2 or len(t) != len(grids)
        if by_frame and self.frame_times is None:
            raise ValueError(f"this backbone has one time a clip, found {tuple(t.shape)}; build it with backbone.frame_times=true")
        if by_frame and t.numel() != sum(lengths):
            raise ValueError(f"times {tuple(t.shape)} are not one for each of {sum(lengths)} frames")
        stream = super().begin(x, clip_times(t.flatten(), lengths) if by_frame else t, cond)
        if self.frame_times is None:
            return stream
        times = t.flatten() if by_frame else t[numbered(tuple(lengths), t.device)]
        told = self.frame_times(self.time_embed, times, grids).to(stream.tokens)
        told = told.view(len(stream.tokens), -1, told.shape[-1])
        beyond = stream.tokens.shape[1] - told.shape[1]  # tokens that no grid has, such as a prompt's
        return replace(stream, tokens=stream.tokens + F.pad(told, (0, 0, 0, beyond)))

    def foresee(self, t: Tensor, cond: Cond, size: Sequence[int]) -> Foreseen:
        """As of other backbones: where a clip has one time, `begin` adds nothing for its frames."""
        return super().foresee(t, cond, size)

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
