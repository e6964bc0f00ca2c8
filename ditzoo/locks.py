"""Locks: what a name meant on the day it was locked, to the byte, and the refusal of anything else. No torch.

A lock is a JSON file: for each model its canonical spec, the place with its commit, sha256 and size of every file, and the
version of every plugin that the spec is made of.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ditzoo.errors import LockError, listed
from ditzoo.files import write_text
from ditzoo.hub import Repository
from ditzoo.model_spec import ModelSpec
from ditzoo.parts import parts_in
from ditzoo.places import Folder, Place, file_sha256
from ditzoo.sources import Found
from ditzoo.zoo import Zoo, kind_of

LOCK_FILE, FORMAT = "ditzoo.lock", 1


def lock(found: Sequence[Found], path: Path) -> dict[str, Any]:
    """Fetch everything that some models need, hash it, and write the lock; return its content."""
    data = {"format": FORMAT, "ditzoo": version("ditzoo"), "models": {one.name: entry(one) for one in found}}
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    return data


def entry(found: Found) -> dict[str, Any]:
    """Return what a lock says of one model, from the files as they are now."""
    found = found.opened() if found.spec.weights else found
    files = dict(_files(found))
    return {
        "place": found.place.lock_name,
        "spec": canonical(found.spec),
        "spec_sha256": spec_sha256(found.spec),
        "files": files,
        "plugins": plugins_of(found.spec, found.zoo),
    }


def hold(found: Found, path: Path) -> Found:
    """Hold a resolved name to its lock: spec, plugins, commit and every byte. Raises `LockError` naming all that differs."""
    locked = read_lock(path).get(found.name)
    if locked is None:
        raise LockError(f"{path} has no '{found.name}' (it locks {listed(read_lock(path))}); add it with 'ditzoo lock {found.name}'")
    now = entry(found)
    faults = []
    if now["place"] != locked["place"]:
        faults.append(f"its files are at {now['place']}, and the lock says {locked['place']}")
    if now["spec_sha256"] != locked["spec_sha256"]:
        faults.append(f"its spec differs in {listed(_differing(now['spec'], locked['spec']))}")
    for what in ("plugins", "files"):
        faults += _changes(what, now[what], locked[what])
    if faults:
        raise LockError(f"'{found.name}' is not what {path} says: {'; '.join(faults)}. Lock it anew if this is meant")
    return found


def read_lock(path: Path) -> dict[str, Any]:
    """Return the models of a lock file; raise `LockError` that names the file if it is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise LockError(f"{path} is of lock format {data['format']}, and this version reads {FORMAT}; lock anew")
        return dict(data["models"])
    except FileNotFoundError as error:
        raise LockError(f"no lock file {path}; write one with 'ditzoo lock NAME'") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LockError(f"cannot read {path}: it is no lock file ({error!r}); write one with 'ditzoo lock NAME'") from error


def canonical(spec: ModelSpec) -> dict[str, Any]:
    """Return a spec as data: everything that decides what it computes, and nothing that is only said of it.

    A runtime is in it only where it is lossy: an exact one changes how long a picture takes, not the picture.
    """
    lossy = spec.runtime is not None and spec.runtime.lossy is not None
    return spec.model_dump(mode="json", exclude={"card", "aliases"} | (set() if lossy else {"runtime"}))


def spec_sha256(spec: ModelSpec) -> str:
    """Return the hash of a spec's canonical form."""
    return hashlib.sha256(json.dumps(canonical(spec), sort_keys=True).encode()).hexdigest()


def plugins_of(spec: ModelSpec, zoo: Zoo) -> dict[str, str]:
    """Return the plugins that a spec is made of, with the distribution and version that each came from."""
    used = {(part.slot, part.kind) for part in parts_in(spec)}
    layout = spec.weights.layout if spec.weights else None
    return {
        plugin.name: plugin.origin
        for plugin in zoo.plugins.values()
        if any((part.slot, kind_of(part)) in used for part in plugin.parts) or any(one.name == layout for one in plugin.layouts)
    }


def _files(found: Found) -> list[tuple[str, dict[str, Any]]]:
    """Hash the weights, their index, and what parts fetch for themselves."""
    rows = []
    if found.spec.weights is not None:
        weights = found.weights()
        names = [*weights.names, *([weights.index] if weights.index else [])]
        rows += [(name, _stamp(path)) for name, path in zip(names, found.place.fetch(names), strict=True)]
    for part in parts_in(found.spec):
        for source, revision, patterns in part.files_used():
            held = _place(source, revision, found).fetch_matching(patterns)
            rows += [(f"{part.slot}: {name}", _stamp(path)) for name, path in held.items()]
    return rows


def _place(source: str, revision: str | None, found: Found) -> Place:
    """Return the place that a part opens files from: a folder, the model's own repository, or another one."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return Folder(folder)
    own = isinstance(found.place, Repository) and found.place.repo == source and revision in (None, found.place.commit)
    return found.place if own else Repository(source, revision, found.access)


def _stamp(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": file_sha256(path)}


def _changes(what: str, now: Mapping[str, Any], locked: Mapping[str, Any]) -> list[str]:
    word = what.removesuffix("s")
    return (
        [f"{word} {name} is gone" for name in sorted(locked.keys() - now.keys())]
        + [f"{word} {name} is new" for name in sorted(now.keys() - locked.keys())]
        + [
            f"{word} {name} is {_say(now[name])}, and the lock says {_say(locked[name])}"
            for name in sorted(now.keys() & locked.keys())
            if now[name] != locked[name]
        ]
    )


def _say(value: Any) -> str:
    return f"sha256 {value['sha256']} ({value['size']} bytes)" if isinstance(value, Mapping) else str(value)


def _differing(now: Any, locked: Any, path: str = "") -> list[str]:
    """Return the paths at which two canonical specs differ, with both values."""
    if isinstance(now, Mapping) and isinstance(locked, Mapping):
        return [
            line
            for key in sorted(now.keys() | locked.keys())
            for line in _differing(now.get(key), locked.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if now == locked else [f"{path}={now} (lock: {locked})"]
