"""The commands calibrate and frontier. Torch is imported once everything that can be checked without it has been."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ditzoo.cli.options import json_option, lock_option, open_model, open_zoo, print_json, set_option
from ditzoo.errors import EvaluationError, SamplingError
from ditzoo_dynamic.points import inline, own_solver

if TYPE_CHECKING:
    from ditzoo.sources import Found


@click.command()
@click.argument("name")
@click.option(
    "--budget", type=click.FloatRange(0, 1, min_open=True), default=0.5, show_default=True, help="Share of all block evaluations."
)
@click.option("--bins", type=click.IntRange(1), default=8, show_default=True, help="Noise levels that get a depth of their own.")
@click.option("--count", type=click.IntRange(2), default=30, show_default=True, help="Pictures that are drawn over and over.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The table. Default: NAME.depths.json.")
@lock_option
@set_option
@json_option
def calibrate(
    name: str,
    budget: float,
    bins: int,
    count: int,
    seed: int,
    device: str,
    out: Path | None,
    lock: Path | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Find the depth at which each noise level of NAME's sampler may leave, and write it as a table for early-exit's policy depth-table.

    The table serves this model with this solver, schedule and guidance alone.
    """
    from ditzoo.files import write_text

    found = open_model(name, settings, lock).opened()
    if "leaves-early" in found.spec.sampler.provides_now:
        raise SamplingError(
            f"sampler '{found.spec.sampler.kind}' leaves early already; set sampler.kind to the solver that is to be calibrated"
        )

    from ditzoo.assemble import load_found
    from ditzoo_dynamic import calibration

    measured = calibration.calibrated(load_found(found, device=device), found.spec, bins=bins, count=count, seed=seed)
    table = measured.table(budget)
    out = out or Path(f"{found.spec.name}.depths.json")
    write_text(out, table.model_dump_json(indent=1) + "\n")
    if as_json:
        print_json(table.model_dump(mode="json"))
        return
    click.echo(f"{'t':>13}  cond  null")
    for (low, high), cond, null in zip(pairwise(table.edges), table.cond, table.null, strict=True):
        click.echo(f"{low:5.3f} - {high:5.3f}  {cond:4}  {null:4}")
    told, expected = table.figures["measured_mse"], table.figures["predicted_mse"]
    click.echo(f"{table.figures['share_of_blocks']:.1%} of the blocks; mean square error {told:.2e}, {expected:.2e} predicted")
    click.echo(str(out))
    sampler = {"kind": "early-exit", "inner": own_solver(found.spec), "policy": f"depth-table:{out}"}
    click.echo(f'next: ditzoo sample {name} --set "sampler={inline(sampler)}"', err=True)


@click.command()
@click.argument("name")
@click.option("--protocol", default="fashion", show_default=True, help="By which quality is measured: a file, or one that ships.")
@click.option("--plan", "planned", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Points to measure, as TOML.")
@click.option("--count", type=click.IntRange(50), default=2000, show_default=True, help="Pictures a seed, where no plan says it.")
@click.option("--seed", "seeds", type=int, multiple=True, default=(0,), show_default=True, help="Repeatable; seeds are pooled.")
@click.option("--steps", type=click.IntRange(2), default=20, show_default=True, help="Steps of the reference: the model's own solver.")
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Pictures of a timed run.")
@click.option("--rounds", type=click.IntRange(3), default=15, show_default=True, help="Timed rounds.")
@click.option("--no-times", is_flag=True, help="Draw and judge pictures alone, in any number of processes; times are a later run's.")
@click.option("--within", type=float, help="Pick the fastest point whose loss is at most this share (upper 95 % bound).")
@click.option("--time", "budget", type=float, help="Pick the best point that takes at most this share of the reference's time.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder. Default: frontiers/NAME.")
@set_option
@json_option
def frontier(
    name: str,
    protocol: str,
    planned: Path | None,
    count: int,
    seeds: tuple[int, ...],
    steps: int,
    batch_size: int,
    rounds: int,
    no_times: bool,
    within: float | None,
    budget: float | None,
    out: Path | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure the trade of time for quality of NAME: leaving early, against the best that full depth does in as much time.

    Run again after an interruption, it goes on where it was. Without --plan it makes one, which stays in the folder as plan.toml.
    With --no-times the processes of 'accelerate launch --multi_gpu -m ditzoo frontier ... --plan FILE' share the pictures.
    """
    from ditzoo.evaluation.protocol import read_protocol
    from ditzoo_dynamic.points import read_plan

    zoo = open_zoo()
    out = out or Path("frontiers") / name.replace("/", "-").replace(":", "-")

    def resolve(more: tuple[str, ...], other: str | None = None) -> Found:
        return open_model(other or name, (*settings, *more), zoo=zoo).opened()

    kept = out / "plan.toml"
    plan = read_plan(planned or kept, zoo) if planned is not None or kept.is_file() else None
    several = int(os.environ.get("WORLD_SIZE", "1"))
    if several > 1 and (plan is None or not no_times):
        raise EvaluationError(
            f"{several} processes were started, and {'times are taken' if not no_times else 'a plan is made'} by one: "
            f"under a launcher say --no-times and --plan, then take times without the launcher and --no-times"
        )
    if plan is not None:
        count, seeds = plan.count, plan.seeds
    changed = [f"count={count}", f"seeds={list(seeds)}", f"kid_subset_size={min(1000, count)}", "kid_subsets=10"]
    told = read_protocol(plan.protocol if plan else protocol, zoo, changed)
    told.check(resolve(told.settings).spec)

    from ditzoo_dynamic import frontier as measuring
    from ditzoo_dynamic.figure import draw
    from ditzoo_dynamic.standard import standard
    from ditzoo_dynamic.verdict import pick, table

    def note(line: str) -> None:
        click.echo(line, err=True)

    if plan is None:
        plan = standard(resolve, told, protocol, out, steps=steps, note=note)
    if no_times:
        measuring.judged(resolve, told, plan, out, note)
        return
    made = measuring.measure(resolve, told, plan, out, batch=batch_size, rounds=rounds, note=note)
    rows = measuring.rows_of(made)
    draw(rows, plan.reference, made["distance_is"], out / "frontier.png")
    picked = pick(rows, loss=within, time=budget) if within is not None or budget is not None else None
    if as_json:
        print_json(made | ({"picked": picked and picked.name} if within is not None or budget is not None else {}))
        return
    click.echo(f"{table(rows, made['distance_is'])}\n\n{made['says']}\n\n{out / 'frontier.json'} and {out / 'frontier.png'}")
    if picked is not None:
        click.echo(f"picked: {picked.name}: {' '.join(f'--set {setting!r}' for setting in picked.settings)}")
    elif within is not None or budget is not None:
        raise EvaluationError("no point keeps that; allow more loss or more time")
