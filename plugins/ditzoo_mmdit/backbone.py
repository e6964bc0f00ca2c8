"""The MM-DiT backbone: a transformer over patches whose positions are cropped from the centre of a table.

Shapes: N tokens, D width, M side of the position table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from ditzoo.interfaces import Conditioning
from ditzoo.layers import Attention, sincos_table
from ditzoo.patches import PatchTransformer

if TYPE_CHECKING:
    from ditzoo_mmdit.spec import MMDiTSpec


class MMDiT(PatchTransformer):
    """Esser et al. 2024; the prompt's own projections are a part of the prompt."""

    def __init__(self, spec: MMDiTSpec, conditioning: Conditioning) -> None:
        self.spec = spec
        patch = (spec.patch,) * 2
        super().__init__(spec, conditioning, patch=patch, heads=spec.heads, mlp_ratio=spec.mlp_ratio, out_channels=spec.in_channels)
        scale = [extent / spec.patch / spec.table for extent in spec.input_size]
        table = sincos_table((spec.table, spec.table), spec.width, scale=scale)  # (M * M, D); published checkpoints hold theirs
        if spec.positions == "learned":
            self.position_table = nn.Parameter(table)
        else:
            self.register_buffer("position_table", table)

    def attention(self, width: int, index: int) -> nn.Module:
        return Attention(width, self.heads, qk_norm=self.spec.qk_norm)

    def table(self, grid: tuple[int, ...]) -> Tensor:
        """Return the positions (N, D) of a grid, those in the middle of the table."""
        side = self.spec.table
        top, left = ((side - extent) // 2 for extent in grid)
        return self.position_table.view(side, side, -1)[top : top + grid[0], left : left + grid[1]].flatten(0, 1)
