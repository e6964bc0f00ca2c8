"""The hooks of the entry-point group `ditzoo`: what a plugin may offer.

A plugin is a module named by an entry point of that group. It defines the functions below that it needs,
each marked with `hookimpl`; they take nothing, return lists and import no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from click import Command

    from ditzoo.layouts import Component, Layout
    from ditzoo.specs import Part

GROUP = "ditzoo"

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def ditzoo_parts() -> list[type[Part]]:  # type: ignore[empty-body]
    """Return the spec classes of the parts that this plugin offers, each with its `slot` and `kind`."""


@hookspec
def ditzoo_catalogue() -> list[Path]:  # type: ignore[empty-body]
    """Return folders of model specs (`NAME.toml`); `recipes/` inside one holds training recipes, `protocols/` those of evaluation."""


@hookspec
def ditzoo_layouts() -> list[Layout]:  # type: ignore[empty-body]
    """Return the checkpoint layouts that this plugin reads and writes, each with its `name`."""


@hookspec
def ditzoo_components() -> list[Component]:  # type: ignore[empty-body]
    """Return readers and writers of the parts of diffusers pipelines other than the network: schedulers, autoencoders."""


@hookspec
def ditzoo_commands() -> list[Command]:  # type: ignore[empty-body]
    """Return commands for the command line, each with its name; what they need is imported when they run."""
