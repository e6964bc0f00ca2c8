"""Files that appear whole or not at all: written aside, flushed, renamed."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ditzoo.errors import DitzooError, OutputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed and renamed to `path`, else removed."""
    writable_folder(path.parent)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        flush(aside)
        aside.chmod(0o666 & ~_umask())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success its files are flushed and it is renamed to `path`,
    which must not exist or be empty.
    """
    writable_folder(path.parent)
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        yield aside
        for file in aside.rglob("*"):
            if file.is_file():
                flush(file)
        aside.chmod(0o777 & ~_umask())
        os.replace(aside, path)
        flush(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all; raise `OutputError` if it cannot be written."""
    try:
        with replacing(path) as aside:
            aside.write_text(text, encoding="utf-8", newline="")  # a csv's line ends stay as they are
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def claim(path: Path, holds: Mapping[str, Any], what: str, error: type[DitzooError]) -> None:
    """Note in a file what a folder is being filled with; raise `error` with all that differs if it is something else already."""
    if path.is_file():
        held = json.loads(path.read_text(encoding="utf-8"))
        differing = [f"{name} ({held.get(name)} there, {value} here)" for name, value in holds.items() if held.get(name) != value]
        if differing:
            raise error(f"'{path.parent}' holds {what}: {'; '.join(differing)}; choose another --out")
    write_text(path, json.dumps(holds, indent=1) + "\n")


def cache_folder() -> Path:
    """Return where things are kept that can be made again: `DITZOO_CACHE`, or `ditzoo` in the user's cache folder."""
    told = os.environ.get("DITZOO_CACHE")
    return Path(told) if told else Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "ditzoo"


def writable_folder(path: Path) -> Path:
    """Make a folder if need be and return it; raise `OutputError` unless files can be written into it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OutputError(f"cannot write into folder '{path}': {error.strerror or error}; choose another with --out") from error
    return path


def flush(path: Path) -> None:
    """Have the operating system put a file's content on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
