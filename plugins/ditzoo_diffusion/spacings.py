"""Specs of the spacings: which times of a schedule a run walks through."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from ditzoo.specs import SpacingSpec

if TYPE_CHECKING:
    from ditzoo.interfaces import Spacing


class LinspaceSpec(SpacingSpec):
    """Evenly from the first time to the last: over trained steps as Improved DDPM respaces them, else over t."""

    kind: Literal["linspace"] = "linspace"

    def build(self) -> Spacing:
        from ditzoo_diffusion.grids import Linspace

        return Linspace()


class TrailingSpec(SpacingSpec):
    """Multiples counted back from the noisiest trained step (Lin et al. 2023); where time is continuous, the same as `linspace`."""

    kind: Literal["trailing"] = "trailing"

    def build(self) -> Spacing:
        from ditzoo_diffusion.grids import Trailing

        return Trailing()


class LeadingSpec(SpacingSpec):
    """Multiples from trained step 0, diffusers' default; the noisiest steps are never walked."""

    kind: Literal["leading"] = "leading"
    discrete: ClassVar[bool] = True

    def build(self) -> Spacing:
        from ditzoo_diffusion.grids import Leading

        return Leading()


class KarrasSpec(SpacingSpec):
    """sigma / alpha to the power 1 / rho falls evenly (Karras et al. 2022, eq. 5), from `sigma_max` to `sigma_min`, then clean data.

    The ends are those of the path's trained times where they are None, and `sigma_max` then at most 160.
    """

    kind: Literal["karras"] = "karras"
    rho: float = Field(7.0, gt=0)
    sigma_min: float | None = Field(None, gt=0)
    sigma_max: float | None = Field(None, gt=0)

    def build(self) -> Spacing:
        from ditzoo_diffusion.grids import Karras

        return Karras(self)


class BetaSpec(SpacingSpec):
    """Times are quantiles of a beta distribution: more steps near both ends (Lee et al. 2024, "Beta sampling is all you need")."""

    kind: Literal["beta"] = "beta"
    a: float = Field(0.6, gt=0)
    b: float = Field(0.6, gt=0)

    def build(self) -> Spacing:
        from ditzoo_diffusion.grids import BetaQuantiles

        return BetaQuantiles(self)
