"""Measuring a frontier: every point's pictures by the project's evaluation, in a folder that goes on where it was interrupted.

Times are taken after that, in turns, all overheads included.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ditzoo.assemble import Model, load_found
from ditzoo.evaluation.metrics import Gaussian, bootstrap, frechet
from ditzoo.evaluation.protocol import Protocol
from ditzoo.evaluation.reference import seen_in
from ditzoo.evaluation.run import evaluate, gather
from ditzoo.files import write_text
from ditzoo.sampling import sample
from ditzoo.sources import Found
from ditzoo_dynamic.points import Plan, check
from ditzoo_dynamic.timing import interleaved, ratios
from ditzoo_dynamic.verdict import Row, by_budget, gains, sentence, table

Resolve = Callable[..., Found]  # of settings, and of another model's name
AGREEMENTS = ("label_agreement", "attribute_agreement")  # with what was asked for, whichever the protocol measures


def measure(
    resolve: Resolve, protocol: Protocol, plan: Plan, out: Path, *, batch: int, rounds: int, note: Callable[[str], None]
) -> dict[str, Any]:
    """Measure every point of a plan and return the report; `out` gets frontier.json, frontier.md and a folder a point.

    `resolve` gives the model with settings laid over it. Quality is measured first, times after it on the idle machine.
    """
    found, reports = judged(resolve, protocol, plan, out, note)
    features = {}
    for name in found:
        features[name] = torch.cat([gather(folder_of(out, name), protocol, seed).seen.features for seed in protocol.seeds])
    reference, _, _ = seen_in(protocol.reference, protocol.features, pinned=protocol.reference_sha256, what="reference")
    goal = Gaussian.of(reference.features)
    own = {point.model: load_found(found[point.name]) for point in plan.points}
    models = {point.name: own[point.model] for point in plan.points}
    spent = {name: _ledger(models[name], one) for name, one in tqdm(found.items(), desc="counting", disable=None)}
    times = _times(models, found, plan.reference, batch, rounds)
    rows = []
    for point in plan.points:
        name = point.name
        distance, interval = _distance(features[name], goal, protocol.resamples)
        loss, loss_interval = _loss(features[name], features[plan.reference], goal, protocol.resamples)
        agreement = next((reports[name]["mean"][kind] for kind in AGREEMENTS if kind in reports[name]["mean"]), None)
        took, ledger = times[name], spent[name]
        rows.append(
            Row(name, point.family, took.median, (took.low, took.high), ledger["blocks"], ledger["macs"], distance, interval, loss,
                loss_interval, agreement, ledger["trace"], point.settings)
        )  # fmt: skip
    made = {
        "model": next(iter(found.values())).name,
        "reference": plan.reference,
        "pictures": len(features[plan.reference]),
        "distance_is": protocol.features.distance,
        "timed": {"batch": batch, "rounds": rounds, "threads": torch.get_num_threads()},
        "says": sentence(rows),
        "budgets": by_budget(rows),
        "gains": gains(rows),
        "rows": [asdict(row) for row in rows],
        "identity": reports[plan.reference]["identity"],
    }
    write_text(out / "frontier.json", json.dumps(made, indent=1) + "\n")
    write_text(out / "frontier.md", table(rows, protocol.features.distance) + f"\n\n{made['says']}\n")
    return made


def judged(
    resolve: Resolve, protocol: Protocol, plan: Plan, out: Path, note: Callable[[str], None]
) -> tuple[dict[str, Found], dict[str, dict[str, Any]]]:
    """Draw every point's pictures and judge them; return what each point is of, and its report.

    Processes that a launcher started share the pictures; all but the first have empty reports.
    """
    found = {point.name: resolve((*protocol.settings, *point.settings), point.model) for point in plan.points}
    check(plan, {name: one.spec for name, one in found.items()})
    reports = {}
    for name, one in found.items():
        reports[name] = made = evaluate(one, protocol, folder_of(out, name))
        if made:
            note(f"{name}: {made['distance_is']} {made['mean']['frechet']:.3f}")
    return found, reports


def folder_of(out: Path, name: str) -> Path:
    """Return where the pictures of a point are evaluated."""
    return out / "points" / re.sub(r"[^\w.]+", "-", name)


def rows_of(made: Mapping[str, Any]) -> list[Row]:
    """Return the rows of a report that was written."""
    fixed = ("time_interval", "distance_interval", "loss_interval", "settings")
    return [Row(**(one | {name: tuple(one[name]) for name in fixed})) for one in made["rows"]]


def _distance(features: Tensor, goal: Gaussian, resamples: int) -> tuple[float, tuple[float, float]]:
    def distance(rows: Tensor) -> float:
        return frechet(Gaussian.of(features[rows]), goal)

    return distance(torch.arange(len(features))), bootstrap(distance, len(features), resamples)


def _loss(features: Tensor, reference: Tensor, goal: Gaussian, resamples: int) -> tuple[float, tuple[float, float]]:
    """Return how much farther from the goal a set is than the reference, as a share.

    Pairs share noise and label, and are resampled together.
    """

    def loss(rows: Tensor) -> float:
        return frechet(Gaussian.of(features[rows]), goal) / frechet(Gaussian.of(reference[rows]), goal) - 1

    if features is reference:
        return 0.0, (0.0, 0.0)
    return loss(torch.arange(len(features))), bootstrap(loss, len(features), resamples)


def _drawing(model: Model, found: Found, batch: int, **more: Any) -> Any:
    return sample(model.under(found.spec), num_images=batch, seed=1, output_type="latent", batch_size=batch, **more)


def _ledger(model: Model, found: Found) -> dict[str, Any]:
    count = 8  # as depths may differ by picture
    ledger = _drawing(model, found, count, count_macs=True).ledger
    return {"blocks": ledger.block_evals / count, "macs": ledger.macs / count, "trace": ledger.trace}


def _times(models: Mapping[str, Model], found: Mapping[str, Found], reference: str, batch: int, rounds: int) -> dict[str, Any]:
    names = list(found)
    work = [partial(_drawing, models[name], one, batch) for name, one in found.items()]
    with tqdm(total=(rounds + 1) * len(work), desc="timing", unit="run", disable=None) as bar:

        def counted(one: Callable[[], object]) -> object:
            bar.update()
            return one()

        seconds = interleaved([partial(counted, one) for one in work], rounds)
    return dict(zip(names, ratios(seconds, names.index(reference)), strict=True))
