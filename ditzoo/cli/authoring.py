"""Commands for plugin authors: new-plugin."""

from __future__ import annotations

from pathlib import Path

import click

from ditzoo.cli.options import json_option, print_json
from ditzoo.scaffold import EXAMPLE, new_plugin


def add_to(group: click.Group) -> None:
    """Add these commands to the command line."""
    group.add_command(new)


@click.command("new-plugin")
@click.argument("name")
@click.option("-s", "--slot", type=click.Choice(list(EXAMPLE)), required=True, help="What it is to offer.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder for the package. Default: ditzoo-NAME.")
@json_option
def new(name: str, slot: str, out: Path | None, as_json: bool) -> None:
    """Write the package of a plugin, which installs, passes 'ditzoo check NAME' and runs: a part to begin with."""
    folder = out or Path(f"ditzoo-{name}")
    written = new_plugin(name, slot, folder)
    if as_json:
        print_json({"folder": str(folder), "files": [str(path) for path in written]})
    else:
        click.echo("\n".join(str(path) for path in written))
        click.echo(f"next: pip install -e {folder} && ditzoo check {name}", err=True)
