"""All checks for a part, and for everything that a plugin registers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ditzoo.errors import PluginError, listed, suggest
from ditzoo.matrix import examples
from ditzoo.specs import Part
from ditzoo.testing.findings import Checks, Finding, outcomes
from ditzoo.testing.of_borders import codec_checks, layout_checks, prompt_checks
from ditzoo.testing.of_depth import exits_checks, policy_checks
from ditzoo.testing.of_grids import attention_checks, positions_checks
from ditzoo.testing.of_networks import backbone_checks, conditioning_checks
from ditzoo.testing.of_runtimes import runtime_checks
from ditzoo.testing.of_samplers import sampler_checks
from ditzoo.testing.of_schedules import schedule_checks
from ditzoo.zoo import Zoo, kind_of

# by slot; slots without a line are not checked
CHECKED: dict[str, Callable[[Any, Zoo], Checks]] = {
    "sampler": sampler_checks,
    "schedule": lambda spec, zoo: schedule_checks(spec),
    "backbone": backbone_checks,
    "conditioning": conditioning_checks,
    "prompt": lambda spec, zoo: prompt_checks(spec),
    "codec": lambda spec, zoo: codec_checks(spec),
    "exits": exits_checks,
    "policy": policy_checks,
    "attention": lambda spec, zoo: attention_checks(spec),
    "positions": lambda spec, zoo: positions_checks(spec),
    "runtime": runtime_checks,
}


def check_part(spec: Part, zoo: Zoo, name: str = "") -> Iterator[Finding]:
    """Yield what the checks of its slot find in a part; `name` tells an example of the kind apart."""
    told = f"{spec.slot} {name or spec.kind}"
    make = CHECKED.get(spec.slot)
    if make is None:
        return
    try:
        checks = make(spec, zoo)
    except Exception as error:  # a part that cannot be built, say: that is a finding
        yield Finding(told, "can be checked", ok=False, told=f"{type(error).__name__}: {error}")
        return
    yield from outcomes(told, checks, type(spec).expected_failures)


def check_package(zoo: Zoo, plugin: str) -> Iterator[Finding]:
    """Yield what the checks find in every part, layout and model of a plugin, one after another as they are run.

    Raises `PluginError` if no such plugin is loaded.
    """
    if plugin not in zoo.plugins:
        broken = f": {zoo.failures[plugin]}" if plugin in zoo.failures else ""
        raise PluginError(f"no plugin '{plugin}' is loaded{broken}{suggest(plugin, zoo.plugins)} (loaded: {listed(zoo.plugins)})")
    own = zoo.plugins[plugin]
    for cls in own.parts:
        kind = kind_of(cls)
        shown = {name: data for name, data in examples(zoo, cls.slot).items() if data["kind"] == kind}
        if not shown and cls.slot in CHECKED:
            yield from outcomes(f"{cls.slot} {kind}", {"has an example": _has_none}, cls.expected_failures)
        for name, data in shown.items():
            yield from check_part(zoo.part(cls.slot, data), zoo, name)
    for layout in own.layouts:
        yield from outcomes(f"layout {layout.name}", layout_checks(layout, zoo), {})


def _has_none() -> None:
    raise AssertionError("its spec needs fields; say a tiny one in the class method examples()")


def assert_conforms(plugin: str, zoo: Zoo | None = None) -> None:
    """Raise `AssertionError` with a line for each check that a plugin fails; for use in a test."""
    wrong = [f"{one.part}: {one.check}: {one.told}" for one in check_package(zoo or Zoo.installed(), plugin) if not one.ok]
    if wrong:
        raise AssertionError("\n".join(wrong))
