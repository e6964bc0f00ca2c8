"""The DiT backbone: a transformer over patches with a sine-cosine position table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ditzoo.interfaces import Conditioning
from ditzoo.layers import sincos_table
from ditzoo.patches import PatchTransformer

if TYPE_CHECKING:
    from ditzoo_dit.spec import DiTSpec

# What diffusers' DiT computes otherwise than the original code: frequencies i/127 for i/128, and norm3's epsilon.
DIFFUSERS_FREQUENCY_SHIFT = 1.0
DIFFUSERS_MLP_EPS = 1e-5


class DiT(PatchTransformer):
    """Peebles and Xie 2022; with adaLN-Zero every block begins as the identity."""

    def __init__(self, spec: DiTSpec, conditioning: Conditioning) -> None:
        theirs = spec.numerics == "diffusers"
        super().__init__(
            spec,
            conditioning,
            patch=(spec.patch,) * 2,
            heads=spec.heads,
            mlp_ratio=spec.mlp_ratio,
            out_channels=spec.out_channels,
            frequency_shift=DIFFUSERS_FREQUENCY_SHIFT if theirs else 0.0,
            eps_mlp=DIFFUSERS_MLP_EPS if theirs else 1e-6,
        )
        self.spec = spec
        self.register_buffer("position_table", self.table_of(spec.grid), persistent=False)

    def table(self, grid: tuple[int, ...]) -> Tensor:
        """Return the position table (N, D) of a grid, as `spec.positions` has it for grids not trained on."""
        table: Tensor = self.position_table  # type: ignore[assignment]
        return table if grid == self.spec.grid else self.table_of(grid).to(table)

    def table_of(self, grid: Sequence[int]) -> Tensor:
        """Compute the table (N, D) of a grid: `interpolate` stretches that of the own grid over it."""
        spec = self.spec
        own = spec.grid if spec.positions == "interpolate" else grid
        scale = [extent / n / spec.interpolation_scale for extent, n in zip(own, grid, strict=True)]
        return sincos_table(grid, spec.width, scale=scale)
