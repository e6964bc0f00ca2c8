"""The DiT backbone (Peebles and Xie 2022, "Scalable Diffusion Models with Transformers") as a plugin of ditzoo."""

from __future__ import annotations

from ditzoo.hookspecs import hookimpl
from ditzoo.layouts import Layout
from ditzoo.specs import Part


@hookimpl
def ditzoo_parts() -> list[type[Part]]:
    from ditzoo_dit.spec import DiTSpec

    return [DiTSpec]


@hookimpl
def ditzoo_layouts() -> list[Layout]:
    from ditzoo_dit.layouts import DiffusersDiT, OriginalDiT, OriginalSiT

    return [DiffusersDiT(), OriginalDiT(), OriginalSiT()]
