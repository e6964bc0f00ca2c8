"""What several commands share: options, opening the zoo, printing JSON and columns."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ditzoo.zoo import Zoo

if TYPE_CHECKING:
    from ditzoo.sources import Found

Command = TypeVar("Command", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
set_option = click.option(
    "--set", "settings", multiple=True, metavar="PATH=VALUE", help="Lay a value over the spec, as sampler.kind=heun. Repeatable."
)
runtime_option = click.option("--runtime", metavar="KIND", help="How it is prepared to run: the same as --set runtime=KIND.")
lock_option = click.option("--lock", type=click.Path(path_type=Path), help="Refuse anything that is not what this lock file says.")


class Batch(click.ParamType[int | str]):
    """A number of pictures from 1, or `auto`."""

    name = "INTEGER|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == "auto" or isinstance(value, int):
            return value
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor 'auto'", param, ctx)


def with_runtime(settings: Sequence[str], runtime: str | None) -> tuple[str, ...]:
    """Return settings with the runtime that was asked for among them."""
    return (*settings, *([f"runtime={runtime}"] if runtime else []))


def open_zoo() -> Zoo:
    """Open the installed zoo and tell of the plugins that were left out."""
    zoo = Zoo.installed(warn=False)
    for line in zoo.failure_lines():
        click.echo(f"warning: {line}", err=True)
    return zoo


def open_model(name: str, settings: Sequence[str], lock: Path | None = None, *, zoo: Zoo | None = None) -> Found:
    """Resolve a name, hold it to a lock if there is one, and tell how its structure was found."""
    from ditzoo.sources import resolve

    found = resolve(name, zoo or open_zoo(), settings)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    if lock is not None:
        from ditzoo.locks import hold

        found = hold(found, lock)
    return found


def print_json(data: Any) -> None:
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def print_columns(rows: Sequence[Sequence[str]]) -> None:
    """Print rows as left-aligned columns; the last is as long as it likes."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
