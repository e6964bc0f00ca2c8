"""The plan of a frontier where none is given: made in two parts, for what is worth leaving early with is measured first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ditzoo.assemble import load_found
from ditzoo.errors import SpecError
from ditzoo.evaluation.protocol import Protocol
from ditzoo.evaluation.run import evaluate
from ditzoo.files import writable_folder, write_text
from ditzoo_dynamic.calibration import calibrated
from ditzoo_dynamic.frontier import Resolve, folder_of
from ditzoo_dynamic.points import GUIDED_TO, STEPS, Plan, Point, as_toml, dynamic, full, inline, is_guided, own_solver, solvers

BUDGETS = (0.6, 0.45, 0.35)  # of calibrated tables
FEW = (4, 5, 6, 8, 10, 14)  # steps that leaving early is tried in, beside those of the reference


def standard(resolve: Resolve, protocol: Protocol, named: str, out: Path, *, steps: int, note: Callable[[str], None]) -> Plan:
    """Return the plan for a model and leave it in `out/plan.toml`: all solvers at full depth, and leaving early with two of them.

    Those two are the model's own solver, and the one that is best at full depth in half as many steps; they are drawn at full depth with
    less guidance too.
    """
    first = resolve(protocol.settings)
    counts = sorted({*(count for count in STEPS if count < steps), steps // 2, steps})
    points = [point for point in full(first.spec, counts) if _fits(resolve, point)]
    own = str(own_solver(first.spec)["kind"])
    best, least = own, float("inf")
    for solver in solvers(first.spec):
        point = next((one for one in points if one.name == f"{solver} {steps // 2}"), None)
        if point is not None:
            made = evaluate(resolve((*protocol.settings, *point.settings)), protocol, folder_of(out, point.name))
            note(f"{point.name}: {made['distance_is']} {made['mean']['frechet']:.3f}")
            if made["mean"]["frechet"] < least:
                best, least = solver, made["mean"]["frechet"]
    if is_guided(first.spec):
        points += [point for point in full(first.spec, counts, of=(own, best), guided_to=GUIDED_TO) if _fits(resolve, point)]
    model = load_found(first)
    for solver in dict.fromkeys((own, best)):
        spec = resolve((*protocol.settings, f"sampler={inline(solvers(first.spec)[solver])}", f"sampling.steps={steps}")).spec
        tables = {}
        if len(spec.readable) > 1:
            calibration = calibrated(model, spec)
            tables = {f"table {budget:g}": calibration.table(budget).model_dump(mode="json") for budget in BUDGETS}
        tried = sorted({*(count for count in FEW if solver == best and count < steps), steps // 2, steps})
        points += [point for point in dynamic(spec, solver, tried, tables) if _fits(resolve, point)]
    plan = Plan(protocol=named, count=protocol.count, seeds=protocol.seeds, reference=f"{own} {steps}", points=tuple(points))
    write_text(writable_folder(out) / "plan.toml", as_toml(plan))
    return plan


def _fits(resolve: Resolve, point: Point) -> bool:
    """Say whether a point can be had: an order may want more steps, a table may not serve so few."""
    try:
        resolve(point.settings)
    except SpecError:
        return False
    return True
