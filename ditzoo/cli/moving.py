"""Commands that move models: pull, lock, convert, push."""

from __future__ import annotations

from pathlib import Path

import click

from ditzoo.cli.options import json_option, open_model, open_zoo, print_json, set_option


def add_to(group: click.Group) -> None:
    """Add these commands to the command line."""
    for command in (pull, lock, convert, push):
        group.add_command(command)


@click.command()
@click.argument("names", nargs=-1, required=True)
@set_option
@json_option
def pull(names: tuple[str, ...], settings: tuple[str, ...], as_json: bool) -> None:
    """Fetch everything that models need into the hub's cache, so that they work offline."""
    from ditzoo.locks import entry

    zoo = open_zoo()
    rows = []
    for name in names:
        told = entry(open_model(name, settings, zoo=zoo))
        size = sum(file["size"] for file in told["files"].values())
        rows.append({"name": name, "place": told["place"], "files": len(told["files"]), "bytes": size})
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            click.echo(f"{row['name']}: {row['files']} files, {row['bytes'] / 1e6:,.1f} MB, {row['place']}")


@click.command()
@click.argument("names", nargs=-1, required=True)
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("ditzoo.lock"), show_default=True, help="The lock file.")
@set_option
@json_option
def lock(names: tuple[str, ...], settings: tuple[str, ...], out: Path, as_json: bool) -> None:
    """Write down what NAMES are now: commits, sha256 of every file, plugin versions, canonical specs.

    'ditzoo sample NAME --lock FILE' and 'ditzoo.load(NAME, lock=FILE)' then refuse anything else.
    """
    from ditzoo.locks import lock as write

    zoo = open_zoo()
    data = write([open_model(name, settings, zoo=zoo) for name in names], out)
    if as_json:
        print_json(data)
    else:
        told = [f"{name} ({len(model['files'])} files)" for name, model in data["models"].items()]
        click.echo(f"{out}: {', '.join(told)}")


@click.command()
@click.argument("source")
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--to", "family", required=True, help="diffusers, ditzoo, original, or the name of a layout.")
@click.option(
    "--verify", is_flag=True, help="Read the result back: bits must be equal, and outputs agree (with diffusers, where it can load it)."
)
@click.option("--max-shard-size", default="5GB", show_default=True, help="Files are split above this size.")
@set_option
@json_option
def convert(source: str, target: Path, family: str, verify: bool, max_shard_size: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Write the model SOURCE as TARGET in another layout."""
    found = open_model(source, settings)

    from ditzoo.conversion import convert as write

    done = write(found, target, family, verify=verify, max_shard_size=max_shard_size)
    if as_json:
        print_json({"path": str(done.path), "layout": done.layout, "tensors_equal": done.tensors, "apart": done.apart, "judge": done.judge})
        return
    click.echo(f"{done.path} in layout {done.layout}")
    if verify:
        click.echo(f"verified: {done.tensors} tensors equal bit by bit, outputs {done.apart:.1e} of their scale apart ({done.judge})")


@click.command()
@click.argument("source")
@click.argument("repo")
@click.option("--private", is_flag=True, default=None, help="Make the repository private if it is made.")
@click.option("--revision", help="Branch to push to; made if it is not there.")
@click.option("--create-pr", is_flag=True, help="Open a pull request in place of a commit.")
@click.option("-m", "--message", default="Upload a model of ditzoo", show_default=True)
@click.option("--license", "licence", help="Licence for the card, where the model's own card says none.")
@click.option("--grid", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Picture of samples for the card.")
@click.option("--max-shard-size", default="5GB", show_default=True)
@set_option
@json_option
def push(
    source: str,
    repo: str,
    private: bool | None,
    revision: str | None,
    create_pr: bool,
    message: str,
    licence: str | None,
    grid: Path | None,
    max_shard_size: str,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Upload the model SOURCE to the hub repository REPO, with a card; the licence is told first."""
    found = open_model(source, settings).opened()
    click.echo(f"licence: {found.spec.card.license or licence or 'none stated'}", err=True)

    from ditzoo.assemble import load_found
    from ditzoo.publishing import push as upload

    model = load_found(found, dtype="keep")
    address = upload(
        model,
        repo,
        private=private,
        revision=revision,
        create_pr=create_pr,
        commit_message=message,
        license=licence,
        grid=grid,
        max_shard_size=max_shard_size,
    )
    print_json({"commit": address, "model": f"hf-hub:{repo}"}) if as_json else click.echo(f"hf-hub:{repo} ({address})")
