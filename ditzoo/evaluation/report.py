"""A report: each figure with its interval, seed by seed, beside the same figure for real pictures; as JSON, a Markdown row and a grid."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ditzoo.checkpoints import open_file
from ditzoo.evaluation.attributes import Wanted, attribute_agreement, wanted_of
from ditzoo.evaluation.metrics import Gaussian, bootstrap, class_confidence, frechet, kernel_distance, precision_recall, wilson
from ditzoo.evaluation.protocol import Protocol
from ditzoo.evaluation.reference import seen_in
from ditzoo.files import write_text
from ditzoo.grid import as_pictures, save_grid
from ditzoo.interfaces import Seen
from ditzoo.sources import Found

if TYPE_CHECKING:
    from ditzoo.evaluation.run import Drawn

COMPARED = 10_000  # points that precision and recall are taken over at most, of either set


def report(found: Found, protocol: Protocol, drawn: dict[int, Drawn], identity: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of every seed, their mean and range, and the floor of real against real."""
    reference, _, content = seen_in(protocol.reference, protocol.features, pinned=protocol.reference_sha256, what="reference")
    asking = protocol.asking()
    wanted = wanted_of(asking, protocol.count) if asking is not None else None
    seeds = {str(seed): figures(one.seen, one.asked, reference, protocol, wanted) for seed, one in drawn.items()}
    floor = None
    if protocol.floor is not None:
        real, labels, _ = seen_in(protocol.floor, protocol.features, pinned=protocol.floor_sha256, what="floor")
        rows = slice(0, protocol.count)
        part = Seen(*(None if said is None else said[rows] for said in real))  # type: ignore[arg-type]
        floor = figures(part, labels[rows], reference, protocol, wanted_of(protocol.floor.build(), protocol.count))
    names = list(next(iter(seeds.values())))
    return {
        "model": found.name,
        "protocol": protocol.name,
        "distance_is": protocol.features.distance,
        "samples_per_seed": protocol.count,
        "seeds": seeds,
        "mean": {name: sum(one[name]["value"] for one in seeds.values()) / len(seeds) for name in names},
        "range": {name: [f(one[name]["value"] for one in seeds.values()) for f in (min, max)] for name in names},
        "floor": floor,
        "reference_sha256": content,
        "settings": found.spec.model_dump(mode="json", include={"sampler", "guidance", "sampling", "schedule"}),
        "protocol_content": protocol.model_dump(mode="json"),
        "identity": identity,
        "versions": {package: version(package) for package in ("ditzoo", "torch")} | {"machine": platform.machine()},
    }


def figures(seen: Seen, asked: Tensor, reference: Seen, protocol: Protocol, wanted: Wanted | None = None) -> dict[str, dict[str, Any]]:
    """Return each figure of one set of pictures against the reference: `value`, and `interval_95` where samples were resampled."""
    real, fake, count = reference.features, seen.features, len(seen.features)
    goal = Gaussian.of(real)
    points = min(count, len(real), COMPARED)
    precision, recall = precision_recall(_spread(real, points), _spread(fake, points), protocol.neighbours)
    kid, spread = kernel_distance(real, fake, subsets=protocol.kid_subsets, size=protocol.kid_subset_size)

    def distance(rows: Tensor) -> float:
        return frechet(Gaussian.of(fake[rows]), goal)

    found: dict[str, dict[str, Any]] = {
        "frechet": {"value": distance(torch.arange(count)), "interval_95": bootstrap(distance, count, protocol.resamples)},
        "kid": {"value": kid, "deviation_over_subsets": spread},
        "precision": {"value": precision},
        "recall": {"value": recall},
    }
    if seen.logits is not None:
        logits = seen.logits

        def confidence(rows: Tensor) -> float:
            return class_confidence(logits[rows])

        found["class_confidence"] = {"value": class_confidence(logits), "interval_95": bootstrap(confidence, count, protocol.resamples)}
        if int(asked.min()) >= 0:
            right = logits.argmax(1) == asked
            by_class = {str(label): round(float(right[asked == label].double().mean()), 4) for label in asked.unique().tolist()}
            found["label_agreement"] = {
                "value": float(right.double().mean()),
                "interval_95": wilson(int(right.sum()), count),
                "by_class": by_class,
            }
    if seen.attributes is not None and wanted is not None:
        found["attribute_agreement"] = attribute_agreement(seen.attributes, wanted, protocol.resamples)
    return found


def row(made: dict[str, Any]) -> str:
    """Return the report as a Markdown table of one model: a line a figure, with its interval and the floor."""
    lines = [
        f"| {made['model']}, protocol {made['protocol']} | value | 95 % interval | real against real |",
        "| --- | --: | --- | --: |",
    ]
    first = next(iter(made["seeds"].values()))
    for name, figure in first.items():
        called = made["distance_is"] if name == "frechet" else name.replace("_", " ")
        interval = " to ".join(f"{bound:.4g}" for bound in figure["interval_95"]) if "interval_95" in figure else ""
        floor = f"{made['floor'][name]['value']:.4g}" if made["floor"] and name in made["floor"] else ""
        lines.append(f"| {called} | {figure['value']:.4g} | {interval} | {floor} |")
    if by := first.get("attribute_agreement", {}):
        told = "; ".join(f"{name} {share:.3f}" for name, share in (by["by_attribute"] | by["by_group"]).items())
        lines += ["", f"Attributes: {told}."]
    if len(made["seeds"]) > 1:
        told = ", ".join(f"{name.replace('_', ' ')} {low:.4g} to {high:.4g}" for name, (low, high) in made["range"].items())
        lines += ["", f"Over seeds {', '.join(made['seeds'])}: {told}."]
    for name, found in made.get("bands", {}).items():
        low, high = found["band"]
        value = "not measured" if found["value"] is None else f"{found['value']:.4g}"
        lines += [
            "",
            f"{name.replace('_', ' ')}: {value}, {'within' if found['within'] else 'OUTSIDE'} the recipe's band {low:g} to {high:g}.",
        ]
    return "\n".join(lines)


def write(made: dict[str, Any], found: Found, protocol: Protocol, drawn: dict[int, Drawn], out: Path) -> None:
    """Write report.json, row.md and a grid of the first pictures of the first seed."""
    write_text(out / "report.json", json.dumps(made, indent=2) + "\n")
    write_text(out / "row.md", row(made) + "\n")
    seed = protocol.seeds[0]
    pictures = open_file(out / f"seed-{seed}" / f"{0:07d}.safetensors").tensors["pictures"]
    images = as_pictures(pictures)
    prompt = found.spec.prompt
    asking = protocol.asking()
    items = prompt.default(len(images)) if asking is None else prompt.parse([asking[index]["item"] for index in range(len(images))])
    captions = [prompt.caption(item) for item in items]
    save_grid(images, captions, out / "grid.png")


def _spread(features: Tensor, count: int) -> Tensor:
    """Take `count` rows at even distances, so that a set sorted by class is taken from evenly."""
    return features[torch.linspace(0, len(features) - 1, count).round().long()]
