"""Commands that measure: eval, bench, data."""

from __future__ import annotations

from pathlib import Path

import click

from ditzoo.cli.options import (
    json_option,
    lock_option,
    open_model,
    open_zoo,
    print_columns,
    print_json,
    runtime_option,
    set_option,
    with_runtime,
)
from ditzoo.launched import speaks


def add_to(group: click.Group) -> None:
    """Add these commands to the command line."""
    for command in (eval_, bench, data):
        group.add_command(command)


@click.command("eval")
@click.argument("name")
@click.option("-p", "--protocol", "source", help="A TOML file, or the name of a protocol that ships.")
@click.option("-r", "--recipe", help="A recipe instead, with its protocol and the bands of its figures; code 1 if one is missed.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder of the evaluation. Default: evaluations/NAME-PROTOCOL.")
@click.option("--count", type=int, help="Samples for each seed, in place of the protocol's.")
@click.option("--seed", "seeds", type=int, multiple=True, help="Seed, in place of the protocol's. Repeatable.")
@click.option("--batch-size", type=int, help="Pictures that go through the network at once.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", show_default=True)
@runtime_option
@lock_option
@set_option
@json_option
def eval_(
    name: str,
    source: str | None,
    recipe: str | None,
    out: Path | None,
    count: int | None,
    seeds: tuple[int, ...],
    batch_size: int | None,
    device: str,
    dtype: str,
    runtime: str | None,
    lock: Path | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure NAME by a protocol: Fréchet distance, KID, precision, recall, class confidence, label agreement.

    Run again after an interruption, it goes on where it was.
    Under 'accelerate launch --multi_gpu -m ditzoo eval ...' the processes share the samples.
    """
    from ditzoo.errors import EvaluationError, listed
    from ditzoo.evaluation.protocol import read_protocol
    from ditzoo.training.recipe import read_recipe

    zoo = open_zoo()
    if (source is None) == (recipe is None):
        raise EvaluationError(f"give --protocol or --recipe, one of them (protocols that ship: {listed(zoo.catalogue.protocols)})")
    expected = read_recipe(recipe, zoo).evaluation if recipe is not None else None
    if recipe is not None and expected is None:
        raise EvaluationError(f"recipe '{recipe}' names no protocol; add a table [evaluation], or use --protocol")
    source = expected.protocol if expected is not None else str(source)
    changed = ([f"count={count}", f"kid_subset_size={min(1000, count)}"] if count is not None else []) + (
        [f"seeds=[{', '.join(map(str, seeds))}]"] if seeds else []
    )
    protocol = read_protocol(source, zoo, changed)
    found = open_model(name, (*protocol.settings, *with_runtime(settings, runtime)), lock, zoo=zoo)
    protocol.check(found.spec)

    from ditzoo.evaluation.report import row
    from ditzoo.evaluation.run import evaluate

    folder = out or Path("evaluations") / f"{found.spec.name}-{protocol.name}"
    made = evaluate(found, protocol, folder, expected=expected, device=device, dtype=dtype, batch_size=batch_size)
    if not speaks():
        return  # under a launcher the first process speaks for all
    print_json(made) if as_json else click.echo(f"{row(made)}\n\n{folder / 'report.json'} and {folder / 'grid.png'}")
    if not all(band["within"] for band in made.get("bands", {}).values()):
        raise SystemExit(1)


@click.command()
@click.argument("names", nargs=-1, required=True)
@click.option("-b", "--batch-size", "batches", type=int, multiple=True, default=(1, 8), show_default=True, help="Repeatable.")
@click.option("--repeats", type=int, default=7, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", show_default=True)
@runtime_option
@click.option("--alone", is_flag=True, help="Not beside another library's network.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="CSV file; printed otherwise.")
@set_option
@json_option
def bench(
    names: tuple[str, ...],
    batches: tuple[int, ...],
    repeats: int,
    device: str,
    dtype: str,
    runtime: str | None,
    alone: bool,
    out: Path | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure forward passes of NAMES (fresh weights; wildcards reach into the catalogue), beside diffusers where it has the network."""
    from ditzoo.errors import SamplingError
    from ditzoo.sources import resolve

    zoo = open_zoo()
    if min(batches) < 1 or repeats < 1:
        raise SamplingError(f"batch sizes {batches} and {repeats} repeats; each has to be at least 1")
    models = [resolve(name, zoo, with_runtime(settings, runtime)) for word in names for name in (zoo.catalogue.names(word) or [word])]

    from ditzoo.bench import as_csv
    from ditzoo.bench import bench as measure

    rows = [row for found in models for row in measure(found, batches, repeats=repeats, dtype=dtype, device=device, against=not alone)]
    text = as_csv(rows, out)
    print_json(rows) if as_json else click.echo(text if out is None else str(out), nl=out is not None)


@click.command()
@click.argument("recipe")
@set_option
@json_option
def data(recipe: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Read every item of RECIPE's data: how many of which kind there are, and which cannot be used. Code 1 if any cannot."""
    from ditzoo.training.recipe import read_recipe

    declared = read_recipe(recipe, open_zoo(), settings)

    from ditzoo.training.survey import survey

    found = survey(declared.data.build())
    if as_json:
        print_json(found)
    else:
        click.echo(f"{found['items']} items, {len(found['classes'])} classes: {', '.join(found['classes'])}")
        print_columns([(kind, str(count)) for kind, count in found["kinds"].items()])
        for one in found["unusable"]:
            click.echo(f"cannot use {one['item']}: {one['why']}")
    if found["unusable"]:
        raise SystemExit(1)
