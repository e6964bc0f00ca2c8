"""Where the files of a model lie: a folder here, or (in `hub.py`) a repository of the hub. Imports no torch.

A place answers two questions, is a file there and what is its local path; so what reads a model does not know
whether it was fetched.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from ditzoo.errors import CheckpointError


class Place(ABC):
    """A set of files under names like `transformer/config.json`. `str(place)` is how people name it."""

    @abstractmethod
    def has(self, name: str) -> bool:
        """Say whether a file is there, without fetching its content."""

    @abstractmethod
    def fetch(self, names: Iterable[str]) -> list[Path]:
        """Return local paths of files, fetching what is not here yet; all of them, or an error that names those missing."""

    def here(self, name: str) -> bool:
        """Say whether a file is on this machine already."""
        return self.has(name)

    @abstractmethod
    def names(self) -> list[str]:
        """Return the names of the files at the top."""

    @abstractmethod
    def fetch_matching(self, patterns: Iterable[str]) -> dict[str, Path]:
        """Fetch what matches wildcard patterns; return the local paths of all of it by name."""

    def sha256(self, name: str) -> str:
        """Return the hash of a file that is here."""
        (path,) = self.fetch([name])
        return file_sha256(path)

    @property
    def lock_name(self) -> str:
        """How a lock names this place: what decides its content, and no path of one machine."""
        return "local"

    @property
    def cure(self) -> str:
        """What to do where a file is missing."""
        return "copy the folder again, whole"

    @property
    def parts_source(self) -> dict[str, Any]:
        """How a part that opens files by itself (a codec) is told of this place: fields `source` and maybe `revision`."""
        return {"source": str(self)}

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the table in a JSON file; raise `CheckpointError` that names the file."""
        (path,) = self.fetch([name])
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot read {name} of {self}: {error}; fetch it again, or mend it") from error
        if not isinstance(data, dict):
            raise CheckpointError(f"{name} of {self} holds a {type(data).__name__} where a table is expected; fetch it again, or mend it")
        return data


class Folder(Place):
    """A folder on this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return f"local-dir:{self.path}"

    @property
    def parts_source(self) -> dict[str, Any]:
        return {"source": str(self.path)}

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    def fetch_matching(self, patterns: Iterable[str]) -> dict[str, Path]:
        return matching(self.path, patterns)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.path.iterdir() if path.is_file())

    def fetch(self, names: Iterable[str]) -> list[Path]:
        paths = [self.path / name for name in names]
        missing = [str(path) for path in paths if not path.is_file()]
        if missing:
            raise CheckpointError(f"no file {', '.join(missing)}: the folder is incomplete; copy or fetch it again")
        return paths


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def matching(folder: Path, patterns: Iterable[str]) -> dict[str, Path]:
    """Return the files below a folder whose names match one of the patterns, by name."""
    wanted = list(patterns)
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path for name, path in found.items() if any(fnmatch(name, pattern) for pattern in wanted)}


def inside(name: object) -> bool:
    """Say whether a name from outside stays within its place: relative, no `..`, no drive, no backslash."""
    if not isinstance(name, str) or not name or "\\" in name or ":" in name or "\0" in name:
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts
