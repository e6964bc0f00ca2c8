"""The command calibrate. Torch is imported once everything that can be checked without it has been."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import click

from ditzoo.cli.options import json_option, lock_option, open_model, print_json, set_option


@click.command()
@click.argument("name")
@click.option(
    "--budget", type=click.FloatRange(0, 1, min_open=True), default=0.5, show_default=True, help="Share of all block evaluations."
)
@click.option("--bins", type=click.IntRange(1), default=8, show_default=True, help="Noise levels that get a depth of their own.")
@click.option("--count", type=click.IntRange(2), default=48, show_default=True, help="Pictures that are drawn over and over.")
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
    from ditzoo.errors import SamplingError
    from ditzoo.files import write_text

    found = open_model(name, settings, lock).opened()
    if getattr(found.spec.sampler, "policy", None) is not None:
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
    inner = found.spec.sampler.model_dump(mode="json", exclude_defaults=True) | {"kind": found.spec.sampler.kind}
    written = "{" + ", ".join(f"{key}='{value}'" if isinstance(value, str) else f"{key}={value}" for key, value in inner.items()) + "}"
    click.echo(f"next: ditzoo sample {name} --set \"sampler={{kind='early-exit', inner={written}, policy='depth-table:{out}'}}\"", err=True)
