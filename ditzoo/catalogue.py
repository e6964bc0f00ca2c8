"""Catalogues: folders of model specs, one TOML file each, and the names by which people ask for them.

A file's stem is its model's name; `aliases` in it are other spellings. Files are read when asked for and never
validated here. Sources other than the catalogue are written out: `hf-hub:owner/repo@revision`, `local-dir:path`.
"""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ditzoo.errors import PluginError, SpecError, UnknownNameError, suggest

SOURCES = ("hf-hub:", "local-dir:")


@dataclass
class Catalogue:
    """Model specs of the loaded plugins, by name."""

    paths: dict[str, Path] = field(default_factory=dict)
    recipes: dict[str, Path] = field(default_factory=dict)
    protocols: dict[str, Path] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)

    def joined(self, folders: Iterable[Path], owner: str) -> Catalogue:
        """Return this catalogue with the specs of more folders; a name claimed twice is an error naming both."""
        paths, owners = dict(self.paths), dict(self.owners)
        recipes, protocols = dict(self.recipes), dict(self.protocols)
        for folder in folders:
            if not folder.is_dir():
                raise PluginError(f"catalogue folder {folder} does not exist")
            for path in sorted(folder.glob("*.toml")):
                if path.stem in paths:
                    raise PluginError(f"model '{path.stem}' is claimed by {owner} and by {owners[path.stem]}")
                paths[path.stem], owners[path.stem] = path, owner
            recipes |= {path.stem: path for path in sorted(folder.glob("recipes/*.toml"))}
            protocols |= {path.stem: path for path in sorted(folder.glob("protocols/*.toml"))}
        return Catalogue(paths, recipes, protocols, owners)

    @cached_property
    def spellings(self) -> list[str]:
        """All names and aliases, as they are written."""
        return [word for name, path in self.paths.items() for word in (name, *self.read(path).get("aliases", ()))]

    @cached_property
    def aliases(self) -> dict[str, list[str]]:
        """Names by lower-case alias; a list, because two plugins may spell alike."""
        found: dict[str, list[str]] = {}
        for name, path in self.paths.items():
            for alias in (name, *self.read(path).get("aliases", ())):
                found.setdefault(alias.lower(), []).append(name)
        return found

    def names(self, pattern: str = "*") -> list[str]:
        """Return the names that match a wildcard pattern, in natural order (`dit-s-8` before `dit-s-10`)."""
        return sorted(fnmatch.filter(self.paths, pattern))

    def search(self, words: Iterable[str]) -> list[str]:
        """Return the names of the models whose name, aliases or card hold every word."""
        wanted = [word.lower() for word in words]
        texts = {name: f"{name} {self.read(path)}".lower() for name, path in self.paths.items()}
        return sorted(name for name, text in texts.items() if all(word in text for word in wanted))

    def find(self, name: str, hint: str = "") -> Path:
        """Return the file of a name or alias; raise with near names, or with the right spelling of a source."""
        if name in self.paths:
            return self.paths[name]
        known = self.aliases.get(name.lower(), [])
        if len(set(known)) == 1:
            return self.paths[known[0]]
        if known:
            raise UnknownNameError(f"'{name}' is an alias of {' and '.join(sorted(set(known)))}; write one of these")
        if Path(name).exists() or "/" in name:
            raise UnknownNameError(
                f"'{name}' is no name of the catalogue{suggest(name, self.spellings)} "
                f"For a folder write 'local-dir:{name}', for a hub repository 'hf-hub:{name}'"
            )
        raise UnknownNameError(
            f"no model '{name}' in the catalogue{suggest(name, self.spellings)} ('ditzoo list' shows all {len(self.paths)}){hint}"
        )

    @staticmethod
    def read(path: Path) -> dict[str, Any]:
        """Return the raw data of a spec file, with its name filled in from the file's stem."""
        data = read_toml(path)
        if data.setdefault("name", path.stem) != path.stem:
            raise SpecError(f"{path}: the file is called '{path.stem}' but its name says '{data['name']}'; make them one")
        return data


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; raise `SpecError` that names the file if it is missing or malformed."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SpecError(f"no file {path}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SpecError(f"cannot read {path}: {error}") from error


def override(data: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """Lay settings `a.b=value` over nested data and return the result; the input stays as it is.

    Values are TOML (`3`, `true`, `[1, 2]`, `"text"`), and anything else is a string; an entry of a list is told by its number, from 0,
    as in `losses.0.target=0.5`. Setting a `kind`, or a whole part to a word, drops the fields of the part that stood there: they belong
    to the old kind.
    """
    result = dict(data)
    for setting in settings:
        path, found, text = setting.partition("=")
        if not found or not path.strip():
            raise SpecError(f"--set takes path.to.field=value, found '{setting}'")
        *tables, leaf = path.strip().split(".")
        value = _parse(text.strip())
        target: Any = result
        for table in tables:
            at, inner = _found(target, table, setting)
            if inner is not None and not isinstance(inner, Mapping | list):
                raise SpecError(f"--set {setting}: '{table}' is {inner!r}, which has no field '{leaf}'")
            target[at] = list(inner) if isinstance(inner, list) else dict(inner or {})
            target = target[at]
        at, old = _found(target, leaf, setting)
        if leaf == "kind" and old != value and isinstance(target, dict):
            target.clear()
        if isinstance(old, Mapping) and "kind" in old and isinstance(value, str):
            value = {"kind": value} if value != old["kind"] else old
        target[at] = value
    return result


def _found(target: Mapping[str, Any] | list[Any], key: str, setting: str) -> tuple[Any, Any]:
    """Return where in a table or a list a step of a path leads, and what is there; None if nothing is yet."""
    if isinstance(target, Mapping):
        return key, target.get(key)
    if not key.isdecimal() or int(key) >= len(target):
        known = f"entries 0 to {len(target) - 1}" if target else "no entries"
        raise SpecError(f"--set {setting}: there is a list with {known}, and '{key}' is none of them; set the whole list, as [...]")
    return int(key), target[int(key)]


def _parse(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
