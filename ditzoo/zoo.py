"""The zoo: what the installed plugins offer, kinds by slot and model specs by name. No globals, no torch.

`Zoo(manager)` takes a pluggy manager as it is given. Only `Zoo.installed()` reads entry points. A plugin that
cannot be imported, misspells a hook or claims what another has is left out and kept in `failures`; its message is
quoted when something it might have offered is asked for.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy
from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from ditzoo import hookspecs
from ditzoo.catalogue import Catalogue, override
from ditzoo.errors import PluginError, PluginWarning, SpecError, UnknownNameError, explain, listed, suggest
from ditzoo.layouts import Component, Layout, Own
from ditzoo.model_spec import ModelSpec
from ditzoo.specs import SLOTS, Part, RuntimeSpec, Spec

if TYPE_CHECKING:
    from click import Command

AnySpec = TypeVar("AnySpec", bound=Spec)


@dataclass(frozen=True)
class Plugin:
    """What is known of one loaded plugin."""

    name: str
    origin: str
    parts: tuple[type[Part], ...] = ()
    folders: tuple[Path, ...] = ()
    layouts: tuple[Layout, ...] = ()
    components: tuple[Component, ...] = ()
    commands: tuple[Command, ...] = ()

    def describe(self) -> str:
        return f"'{self.name}' ({self.origin})"


@dataclass
class Zoo:
    """Kinds by slot and model specs by name, from the plugins of `manager`."""

    manager: pluggy.PluginManager
    origins: Mapping[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.manager.add_hookspecs(hookspecs)
        self.plugins: dict[str, Plugin] = {}
        self.kinds: dict[str, dict[str, type[Part]]] = {slot: {} for slot in SLOTS}
        self.catalogue = Catalogue()
        self.layouts: dict[str, Layout] = {Own.name: Own()}
        self.components: dict[str, Component] = {}
        self.commands: dict[str, Command] = {}
        for name, module in self.manager.list_name_plugin():
            if module is not None:
                self._adopt(name, module)

    @classmethod
    def installed(cls, *, warn: bool = True) -> Zoo:
        """Load the plugins of the entry-point group `ditzoo`, or those named by `DITZOO_PLUGINS=a,b` alone.

        Each failure is issued as a `PluginWarning` unless `warn` is false; `failures` holds them either way.
        """
        wanted = os.environ.get("DITZOO_PLUGINS")
        names = None if wanted is None else {name.strip() for name in wanted.split(",") if name.strip()}
        manager = pluggy.PluginManager(hookspecs.GROUP)
        origins: dict[str, str] = {}
        failures: dict[str, str] = {}
        found = sorted(entry_points(group=hookspecs.GROUP), key=_own_first)
        for entry in found:
            if names is not None and entry.name not in names:
                continue
            origin = _origin(entry)
            if entry.name in origins:
                if origin != origins[entry.name]:
                    failures[f"{entry.name} of {origin}"] = (
                        f"plugin name '{entry.name}' is taken by {origins[entry.name]}; rename the entry point in {origin}"
                    )
                continue
            try:
                manager.register(entry.load(), name=entry.name)
            except (Exception, SystemExit) as error:  # a stranger's import can raise anything, and must not take the program down
                failures[entry.name] = f"{origin} failed on import: {type(error).__name__}: {error}"
            origins[entry.name] = origin
        for name in sorted((names or set()) - {entry.name for entry in found}):
            failures[name] = f"DITZOO_PLUGINS names it, but no installed package has it{suggest(name, (e.name for e in found))}"
        zoo = cls(manager, origins, failures)
        if warn:
            for line in zoo.failure_lines():
                warnings.warn(line, PluginWarning, stacklevel=2)
        return zoo

    def failure_lines(self) -> list[str]:
        return [f"plugin '{name}' was left out: {message}" for name, message in self.failures.items()]

    def part(self, slot: str, data: Any) -> Part:
        """Validate `data` ({"kind": ..., fields}, a bare kind, or "kind:text" for a kind with a shorthand) as a part of `slot`."""
        if isinstance(data, str):
            data = {"kind": data}
        if not isinstance(data, Mapping) or "kind" not in data:
            raise PydanticCustomError(
                "ditzoo",
                "{slot} needs a table with a kind, found {found} (kinds: {kinds})",
                {"slot": slot, "found": repr(data), "kinds": listed(self.kinds[slot])},
            )
        kind, _, text = str(data["kind"]).partition(":")
        field = getattr(self.kinds[slot].get(kind), "shorthand", None)
        if text and field:
            data = {**data, "kind": kind, field: text}
        else:
            kind = str(data["kind"])
        if kind not in self.kinds[slot]:
            raise PydanticCustomError(
                "ditzoo",
                "no installed plugin offers {slot} kind '{kind}'; installed: {kinds}{near}{broken}",
                {
                    "slot": slot,
                    "kind": kind,
                    "kinds": listed(sorted(self.kinds[slot])),
                    "near": suggest(kind, self.kinds[slot]),
                    "broken": self._quote_failures(),
                },
            )
        return self.kinds[slot][kind].model_validate(data, context=self)

    def default_runtime(self) -> RuntimeSpec | None:
        """Return the runtime that loaded models have where none is named; None where no plugin offers such a one."""
        kinds = (kind for kind in self.kinds["runtime"].values() if issubclass(kind, RuntimeSpec) and kind.default)
        return next((kind.model_validate({}, context=self) for kind in kinds), None)

    def layout(self, name: str) -> Layout:
        """Return the layout of a name; raise with near names."""
        if name not in self.layouts:
            raise UnknownNameError(
                f"no installed plugin offers checkpoint layout '{name}'{suggest(name, self.layouts)} "
                f"(weights.layout is one of {listed(self.layouts)}){self._quote_failures()}"
            )
        return self.layouts[name]

    def model(self, data: Mapping[str, Any] | ModelSpec, source: str = "") -> ModelSpec:
        """Validate a model spec from data; raise `SpecError`, a line for each problem, quoting `source`."""
        return self.validate(ModelSpec, data, source)

    def validate(self, cls: type[AnySpec], data: Any, source: str = "") -> AnySpec:
        """Validate any declaration that holds parts, with this zoo to find their kinds."""
        try:
            return cls.model_validate(data, context=self)
        except ValidationError as error:
            raise explain(error, source) from error

    def spec(self, name: str, settings: Iterable[str] = ()) -> ModelSpec:
        """Return the model spec of a catalogue name or alias, with `a.b=c` settings laid over it."""
        path = self.catalogue.find(name, hint=self._quote_failures())
        data = override(self.catalogue.read(path), settings)
        return self.model(data, source=path.stem)

    def _quote_failures(self) -> str:
        return "".join(f" (plugin '{name}' was left out: {message})" for name, message in self.failures.items())

    def _adopt(self, name: str, module: Any) -> None:
        """Take what one plugin offers, whole or not at all."""
        plugin = Plugin(name, self.origins.get(name, getattr(module, "__name__", "unknown origin")))
        try:
            self._check_hooks(name)
            plugin = Plugin(
                name,
                plugin.origin,
                tuple(self._call("ditzoo_parts", name)),
                tuple(Path(folder) for folder in self._call("ditzoo_catalogue", name)),
                tuple(self._call("ditzoo_layouts", name)),
                tuple(self._call("ditzoo_components", name)),
                tuple(self._call("ditzoo_commands", name)),
            )
            for part in plugin.parts:
                self._check_part(part, plugin)
            for layout in plugin.layouts:
                self._check_free("layout", layout.name, self.layouts, plugin)
            for word in (word for component in plugin.components for word in component.classes):
                self._check_free("pipeline component", word, self.components, plugin)
            for command in plugin.commands:
                self._check_free("command", str(command.name), self.commands, plugin)
            catalogue = self.catalogue.joined(plugin.folders, plugin.describe())
        except (Exception, SystemExit) as error:  # whatever a stranger's hook raises is his failure, not the program's
            self.failures[name] = (
                f"{plugin.origin}: {error}"
                if isinstance(error, PluginError | SpecError)
                else (f"{plugin.origin}: {type(error).__name__}: {error}")
            )
            self.manager.unregister(name=name)
            return
        self.plugins[name], self.catalogue = plugin, catalogue
        for part in plugin.parts:
            self.kinds[part.slot][kind_of(part)] = part
        self.layouts |= {layout.name: layout for layout in plugin.layouts}
        self.components |= {word: component for component in plugin.components for word in component.classes}
        self.commands |= {str(command.name): command for command in plugin.commands}

    def _check_free(self, what: str, name: str, taken: Mapping[str, object], plugin: Plugin) -> None:
        if name in taken:
            owner = next((p for p in self.plugins.values() if taken[name] in (*p.layouts, *p.components, *p.commands)), None)
            raise PluginError(
                f"{what} '{name}' is claimed by {plugin.describe()} and by {owner.describe() if owner else 'ditzoo itself'}; "
                f"rename one, or choose with DITZOO_PLUGINS"
            )

    def _check_hooks(self, name: str) -> None:
        known = [hook for hook in dir(hookspecs) if hook.startswith("ditzoo_")]
        for caller in self.manager.get_hookcallers(self.manager.get_plugin(name)) or ():
            if not caller.has_spec():
                raise PluginError(f"unknown hook '{caller.name}'{suggest(caller.name, known)} (hooks: {listed(known)})")

    def _call(self, hook: str, name: str) -> list[Any]:
        impls = getattr(self.manager.hook, hook).get_hookimpls()
        return [item for impl in impls if impl.plugin_name == name for item in impl.function()]

    def _check_part(self, part: type[Part], plugin: Plugin) -> None:
        if not (isinstance(part, type) and issubclass(part, Part) and getattr(part, "slot", None) in SLOTS):
            raise PluginError(f"{part!r} is not a part spec of one of the slots {listed(SLOTS)}")
        if not issubclass(part, SLOTS[part.slot]):
            raise PluginError(f"{part.__name__} claims slot '{part.slot}' but does not derive from {SLOTS[part.slot].__name__}")
        for other in self.plugins.values():
            if any(part.slot == taken.slot and kind_of(part) == kind_of(taken) for taken in other.parts):
                raise PluginError(
                    f"{part.slot} kind '{kind_of(part)}' is claimed by {plugin.describe()} and by {other.describe()}; "
                    f"rename one, or choose with DITZOO_PLUGINS"
                )


def kind_of(part: type[Part]) -> str:
    """Return the kind that a part class declares: the default of its `kind` field."""
    kind = part.model_fields["kind"].default
    if not isinstance(kind, str):
        raise PluginError(f"{part.__name__} does not declare its kind; write kind: Literal['name'] = 'name'")
    return kind


def _origin(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value


def _own_first(entry: EntryPoint) -> tuple[bool, str, str]:
    return (not (entry.dist and entry.dist.name == "ditzoo"), _origin(entry), entry.name)
