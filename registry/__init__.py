"""The catalogue that ships with ditzoo: model specs, recipes, and the small weights that we trained."""

from __future__ import annotations

from pathlib import Path

from ditzoo.hookspecs import hookimpl


@hookimpl
def ditzoo_catalogue() -> list[Path]:
    return [Path(__file__).parent]
