"""The loss `repa`: the backbone's tokens are drawn to what a frozen network sees in the clean picture."""

from __future__ import annotations

from ditzoo.hookspecs import hookimpl
from ditzoo.specs import Part


@hookimpl
def ditzoo_parts() -> list[type[Part]]:
    from ditzoo_repa.spec import RepaSpec

    return [RepaSpec]
