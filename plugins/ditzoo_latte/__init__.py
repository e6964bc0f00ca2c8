"""Latte (Ma et al. 2024, "Latte: Latent Diffusion Transformer for Video Generation") as a plugin of ditzoo: layouts of its checkpoints."""

from __future__ import annotations

from ditzoo.hookspecs import hookimpl
from ditzoo.layouts import Layout


@hookimpl
def ditzoo_layouts() -> list[Layout]:
    from ditzoo_latte.diffusers_layout import DiffusersLatte
    from ditzoo_latte.layouts import OriginalLatte, UnconditionalLatte

    return [OriginalLatte(), UnconditionalLatte(), DiffusersLatte()]
