"""Ways to prepare a model to run: as it is, in fewer operations, packed, compiled, in 8 bits, or as is measured to be fast; a plugin."""

from __future__ import annotations

from ditzoo.hookspecs import hookimpl
from ditzoo.specs import Part


@hookimpl
def ditzoo_parts() -> list[type[Part]]:
    from ditzoo_runtime import specs

    return [
        specs.EagerSpec,
        specs.FusedSpec,
        specs.OneDNNSpec,
        specs.CompileSpec,
        specs.Int8DynamicSpec,
        specs.ByRowsSpec,
        specs.ByTokensSpec,
        specs.GraphsSpec,
        specs.AutoSpec,
    ]
