"""Variance-preserving schedules and the samplers ddpm, ddim and heun, as a plugin of ditzoo."""

from __future__ import annotations

from ditzoo.hookspecs import hookimpl
from ditzoo.layouts import Component
from ditzoo.specs import Part


@hookimpl
def ditzoo_parts() -> list[type[Part]]:
    from ditzoo_diffusion.schedules import CosineSpec, LinearSpec, ScaledLinearSpec
    from ditzoo_diffusion.specs import DDIMSpec, DDPMSpec, HeunSpec

    return [LinearSpec, ScaledLinearSpec, CosineSpec, DDPMSpec, DDIMSpec, HeunSpec]


@hookimpl
def ditzoo_components() -> list[Component]:
    from ditzoo_diffusion.components import Schedulers

    return [Schedulers()]
