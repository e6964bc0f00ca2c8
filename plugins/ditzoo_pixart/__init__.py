"""PixArt (Chen et al. 2023, "PixArt-alpha"; 2024, "PixArt-Sigma") as a plugin of ditzoo: a conditioning and a layout."""

from __future__ import annotations

from ditzoo.hookspecs import hookimpl
from ditzoo.layouts import Layout
from ditzoo.specs import Part


@hookimpl
def ditzoo_parts() -> list[type[Part]]:
    from ditzoo_pixart.spec import AdaLNSingleSpec

    return [AdaLNSingleSpec]


@hookimpl
def ditzoo_layouts() -> list[Layout]:
    from ditzoo_pixart.layouts import DiffusersPixArt

    return [DiffusersPixArt()]
