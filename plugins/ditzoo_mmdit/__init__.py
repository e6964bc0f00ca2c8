"""MM-DiT (Esser et al. 2024, "Scaling Rectified Flow Transformers"): text and image in one transformer, as a plugin of ditzoo."""

from __future__ import annotations

from ditzoo.hookspecs import hookimpl
from ditzoo.layouts import Layout
from ditzoo.specs import Part


@hookimpl
def ditzoo_parts() -> list[type[Part]]:
    from ditzoo_mmdit.spec import JointAttentionSpec, MMDiTSpec

    return [MMDiTSpec, JointAttentionSpec]


@hookimpl
def ditzoo_layouts() -> list[Layout]:
    from ditzoo_mmdit.layouts import DiffusersSD3, SingleFileSD3

    return [DiffusersSD3(), SingleFileSD3()]
