"""Ways to prepare a model to run: as it is, in fewer operations, packed, compiled, in 8 bits, or as is measured to be fast; a plugin."""

from __future__ import annotations

from ditzoo.hookspecs import hookimpl
from ditzoo.specs import Part


@hookimpl
def ditzoo_parts() -> list[type[Part]]:
    from ditzoo_runtime.specs import AutoSpec, ByRowsSpec, ByTokensSpec, CompileSpec, EagerSpec, FusedSpec, Int8DynamicSpec, OneDNNSpec

    return [EagerSpec, FusedSpec, OneDNNSpec, CompileSpec, Int8DynamicSpec, ByRowsSpec, ByTokensSpec, AutoSpec]
