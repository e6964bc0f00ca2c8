"""Dynamic DiT: exits and the loss that trains them, depth policies, the early-exit sampler, and DyDiT, as a plugin of ditzoo."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ditzoo.hookspecs import hookimpl
from ditzoo.specs import Part

if TYPE_CHECKING:
    from click import Command


@hookimpl
def ditzoo_parts() -> list[type[Part]]:
    from ditzoo_dynamic import policy_specs, specs

    return [
        specs.OffsetExitsSpec,
        specs.SeparateExitsSpec,
        specs.ExitLossSpec,
        specs.EarlyExitSpec,
        specs.DyDiTSpec,
        specs.FlopsLossSpec,
        policy_specs.UniformSpec,
        policy_specs.TableSpec,
        policy_specs.ConfidenceSpec,
        policy_specs.ResidualSpec,
    ]


@hookimpl
def ditzoo_commands() -> list[Command]:
    from ditzoo_dynamic import commands

    return [commands.calibrate, commands.frontier]
