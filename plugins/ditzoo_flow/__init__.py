"""The paths of flow matching, and SiT's stochastic sampler, as a plugin of ditzoo."""

from __future__ import annotations

from ditzoo.hookspecs import hookimpl
from ditzoo.layouts import Component
from ditzoo.specs import Part


@hookimpl
def ditzoo_parts() -> list[type[Part]]:
    from ditzoo_flow.spec import EvenSpec, FlowSpec, GVPSpec

    return [FlowSpec, GVPSpec, EvenSpec]


@hookimpl
def ditzoo_components() -> list[Component]:
    from ditzoo_flow.components import FlowSchedulers

    return [FlowSchedulers()]
