"""Model cards: what the spec says, what the paper states, and figures of a meta build. Imports no torch if it can.

Figures of catalogue models are read from `figures.json` beside the specs, keyed by what they depend on; for any other
spec, or one changed by --set, they are computed on the spot, which imports torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ditzoo.model_spec import ModelSpec
from ditzoo.specs import shape

FIGURES_FILE = "figures.json"


class Figures(BaseModel):
    """What one forward pass of one sample costs. MACs are multiply-adds, which the DiT paper calls Gflops."""

    key: str
    parameters: int
    macs: int
    tokens: int
    weight_bytes: int
    activation_bytes: int


def figures_key(spec: ModelSpec) -> str:
    """Hash everything that the figures depend on: the parts with parameters, and how much of a latent is seen at once."""
    parts = [spec.backbone, spec.conditioning, spec.prompt]
    seen = spec.sampler.seen(spec.latent_size())
    text = json.dumps([part.model_dump(mode="json", exclude={"names"}) for part in parts] + [list(seen)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@lru_cache(maxsize=8)
def _stored(path: Path) -> dict[str, dict[str, Any]]:
    try:
        return {values["key"]: values for values in json.loads(path.read_text(encoding="utf-8")).values()}
    except (OSError, ValueError, KeyError, AttributeError):
        return {}  # an absent or damaged cache costs time, not truth: the figures are computed


def figures_of(spec: ModelSpec, folder: Path | None) -> Figures:
    """Return the figures of a spec: from the catalogue folder if they are there, else computed from a meta build."""
    stored = _stored(folder / FIGURES_FILE).get(figures_key(spec)) if folder else None
    if stored is not None:
        return Figures.model_validate(stored)
    from ditzoo.figures import figures

    return figures(spec)


def card(spec: ModelSpec, folder: Path | None) -> dict[str, Any]:
    """Return a model's card as plain data."""
    found = figures_of(spec, folder)
    return {
        "name": spec.name,
        "summary": spec.card.summary,
        "aliases": list(spec.aliases),
        "size": list(spec.pixel_size()),
        "latent": [spec.backbone.in_channels, *spec.latent_size()],
        "parameters": found.parameters,
        "gmacs": round(found.macs / 1e9, 3),
        "tokens": found.tokens,
        "weight_bytes": found.weight_bytes,
        "activation_bytes": found.activation_bytes,
        "weights": spec.weights.model_dump(mode="json", exclude_none=True) if spec.weights else None,
        "card": {name: value for name, value in spec.card.model_dump(mode="json").items() if value},
        "spec": spec.model_dump(mode="json", exclude={"card"}),
    }


def render(data: dict[str, Any]) -> str:
    """Write a card as text for a terminal."""
    spec, told = data["spec"], data["card"]
    slots = [name for name, value in spec.items() if isinstance(value, dict) and "kind" in value]
    lines = [data["name"] + (f": {data['summary']}" if data["summary"] else "")]
    if data["aliases"]:
        lines.append(f"  also {', '.join(data['aliases'])}")
    lines += ["", "Parts"] + [f"  {slot:<14}{_fields(spec[slot])}" for slot in slots]
    lines += [
        f"  {'guidance':<14}{_fields(spec['guidance'])}",
        *([f"  {'runtime':<14}{data['runtime']}, where none is named"] if data.get("runtime") and not spec["runtime"] else []),
        "",
        "Computed from a meta build, one sample, fp32",
        f"  {'pixels':<14}{shape(data['size'])}, latent {shape(data['latent'])}, {data['tokens']} tokens",
        f"  {'parameters':<14}{data['parameters'] / 1e6:,.2f} M ({megabytes(data['weight_bytes'])})",
        f"  {'GMACs':<14}{data['gmacs']:,.2f} (multiply-adds, which the DiT paper calls Gflops)",
        f"  {'activations':<14}{megabytes(data['activation_bytes'])} at the peak",
        "",
        "Weights",
        f"  {_weights(data['weights'])}",
    ]
    lines += [f"  {note}" for note in data.get("notes", ())]
    for title in ("published", "measured"):
        if told.get(title):
            lines += ["", title.capitalize()] + [f"  {name}: {value}" for name, value in told[title].items()]
    for title in ("paper", "license", "data", "training", "notes"):
        if told.get(title):
            lines += ["", f"{title.capitalize()}: {told[title]}"]
    return "\n".join(lines)


def _fields(part: dict[str, Any]) -> str:
    words = [str(part["kind"])] if "kind" in part else []
    for name, value in part.items():
        if name == "kind" or value is None or value in ((), []):
            continue
        words.append(f"{name}={_value(value)}")
    return " ".join(words)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"({len(value)})" if len(value) > 4 else shape(value) if all(isinstance(v, int) for v in value) else str(tuple(value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _weights(weights: dict[str, Any] | None) -> str:
    if weights is None:
        return "none: an architecture to train, or to draw from with --random-weights"
    where = f"hub {weights['repo']}" + (f" at {weights['revision']}" if "revision" in weights else "") if "repo" in weights else "file"
    what = f" {weights['file']}" if "file" in weights else "s beside the spec" if "repo" not in weights else ""
    return f"{where}{what}" + (f", layout {weights['layout']}" if weights["layout"] != "ditzoo" else "")


def markdown_table(models: Iterable[tuple[ModelSpec, Path]]) -> str:
    """Return a Markdown table of models, smallest first: computed figures, and the FID that the source states."""
    rows = []
    for spec, folder in models:
        found = figures_of(spec, folder)
        fids = [f"{value} ({name.removeprefix('FID-50K ')})" for name, value in spec.card.published.items() if name.startswith("FID")]
        source = ("hub" if spec.weights.repo else "shipped") if spec.weights else ""
        row = (f"`{spec.name}`", f"{found.parameters / 1e6:.1f}", f"{found.macs / 1e9:.2f}", str(found.tokens), source, "; ".join(fids))
        rows.append((found.macs, row))
    head = ("model", "parameters (M)", "GMACs", "tokens", "weights", "published FID-50K")
    lines = [head, ("---", "--:", "--:", "--:", "---", "---"), *(row for _, row in sorted(rows))]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def megabytes(count: int) -> str:
    """Write a count of bytes as MiB or GiB."""
    return f"{count / 2**30:,.2f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"
