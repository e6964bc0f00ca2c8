"""Variance-preserving schedules, spacings of steps, and samplers written over alpha and sigma, as a plugin of ditzoo."""

from __future__ import annotations

from ditzoo.hookspecs import hookimpl
from ditzoo.layouts import Component
from ditzoo.specs import Part


@hookimpl
def ditzoo_parts() -> list[type[Part]]:
    from ditzoo_diffusion import schedules, spacings, specs
    from ditzoo_diffusion.borrowed_spec import BorrowedSpec
    from ditzoo_diffusion.windowed_spec import MultiDiffusionSpec

    return [
        schedules.LinearSpec,
        schedules.ScaledLinearSpec,
        schedules.CosineSpec,
        schedules.EDMSpec,
        spacings.LinspaceSpec,
        spacings.TrailingSpec,
        spacings.LeadingSpec,
        spacings.KarrasSpec,
        spacings.BetaSpec,
        specs.DDPMSpec,
        specs.DDIMSpec,
        specs.EulerSpec,
        specs.HeunSpec,
        specs.AB2Spec,
        specs.DPMSolverSpec,
        specs.UniPCSpec,
        specs.AdaptiveSpec,
        specs.ChurnSpec,
        specs.SDESpec,
        BorrowedSpec,
        MultiDiffusionSpec,
    ]


@hookimpl
def ditzoo_components() -> list[Component]:
    from ditzoo_diffusion.components import Schedulers

    return [Schedulers()]
