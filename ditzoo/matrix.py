"""Which sampler runs on which schedule and backbone, of everything installed: computed from the contracts, without torch.

Each kind is taken at its examples, tiny instances that its spec names. A pair is `ok`; or `adapted`, where one of the changes that the
sampler itself names makes it so; or `refused`, with what preflight says.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ditzoo.catalogue import override
from ditzoo.errors import DitzooError, SpecError
from ditzoo.model_spec import ModelSpec
from ditzoo.zoo import Zoo

Data = dict[str, Any]
STEPS = 4


@dataclass(frozen=True)
class Cell:
    """One pair on one backbone; `why` says how it was adapted, or why it is refused; `ran` what a run of it gave; `spec` is the pair."""

    backbone: str
    schedule: str
    sampler: str
    verdict: Literal["ok", "adapted", "refused"]
    why: str = ""
    ran: str = ""
    spec: ModelSpec | None = field(default=None, repr=False, compare=False)


def examples(zoo: Zoo, slot: str) -> dict[str, Data]:
    """Return the examples of all kinds of a slot by name; a kind whose spec names none and needs fields is left out."""
    found: dict[str, Data] = {}
    for kind, cls in sorted(zoo.kinds[slot].items()):
        for name, fields in cls.examples().items():
            data = {"kind": kind, **fields}
            try:
                zoo.part(slot, data)
            except (ValueError, DitzooError):
                continue
            found[kind if not name else f"{kind} {name}"] = data
    return found


def matrix(zoo: Zoo, *, run: bool = False) -> list[Cell]:
    """Return a cell for every installed backbone, schedule and sampler; with `run` each pair that is not refused draws a tiny picture."""
    cells = []
    for backbone, data in examples(zoo, "backbone").items():
        frame = _frame(zoo, data)
        if frame is None:
            continue
        pairs = itertools.product(examples(zoo, "schedule").items(), examples(zoo, "sampler").items())
        for (schedule, schedule_data), (sampler, sampler_data) in pairs:
            verdict, why, spec = _verdict(zoo, frame | {"schedule": schedule_data, "sampler": sampler_data})
            ran = _run(spec) if run and spec is not None else ""
            cells.append(Cell(backbone, schedule, sampler, verdict, why, ran, spec))
    return cells


def _frame(zoo: Zoo, backbone: Data) -> Data | None:
    """Return the rest of a model around a backbone: the first conditioning, prompt and codec with which some pair is not refused."""
    channels = zoo.part("backbone", backbone).in_channels  # type: ignore[attr-defined]
    codecs = [{"kind": kind, "channels": channels} for kind in sorted(zoo.kinds["codec"], key=lambda kind: kind != "pixels")]
    sides = itertools.product(examples(zoo, "conditioning").values(), examples(zoo, "prompt").values(), codecs)
    pairs = list(itertools.product(examples(zoo, "schedule").values(), examples(zoo, "sampler").values()))
    for conditioning, prompt, codec in sides:
        frame: Data = {"name": "tiny", "backbone": backbone, "conditioning": conditioning, "prompt": prompt, "codec": codec}
        for schedule, sampler in pairs[:: max(1, len(pairs) // 8)]:
            if _verdict(zoo, frame | {"schedule": schedule, "sampler": sampler})[0] != "refused":
                return frame
    return None


def matched(zoo: Zoo, *, settings: Sequence[str] = (), **parts: Data) -> ModelSpec | None:
    """Return a tiny model around some parts, the rest being the first examples that go with them; None if none do.

    Schedule and sampler have no say in whether backbone, conditioning and prompt fit: one schedule and one sampler without demands do.
    """
    slots = ("backbone", "conditioning", "prompt", "schedule", "sampler")
    shown = {slot: [parts[slot]] if slot in parts else list(examples(zoo, slot).values()) for slot in slots}
    undemanding = [data for data in shown["sampler"] if not zoo.part("sampler", data).requires_now]
    options = [*(shown[slot] for slot in slots[:3]), shown["schedule"][:1], undemanding[:1] or shown["sampler"]]
    for chosen in itertools.product(*options):
        data: Data = {"name": "tiny", "sampling": {"steps": STEPS, "samples": 1}, **parts, **dict(zip(slots, chosen, strict=True))}
        channels = zoo.part("backbone", data["backbone"]).in_channels  # type: ignore[attr-defined]
        for codec in sorted(zoo.kinds["codec"], key=lambda kind: kind != "pixels"):
            try:
                return zoo.model(override(data | {"codec": {"kind": codec, "channels": channels}}, settings))
            except SpecError:
                continue
    return None


def _verdict(zoo: Zoo, data: Data) -> tuple[Literal["ok", "adapted", "refused"], str, ModelSpec | None]:
    data = data | {"sampling": {"steps": STEPS, "samples": 1}}
    try:
        return "ok", "", zoo.model(data)
    except SpecError as error:
        reasons = str(error).splitlines()
    for change in type(zoo.part("sampler", data["sampler"])).adaptations:  # type: ignore[attr-defined]
        try:
            return "adapted", ", ".join(change), zoo.model(override(data, change))
        except SpecError:
            continue
    return "refused", _shortly(reasons), None


def _shortly(reasons: Sequence[str]) -> str:
    """Say what is missing; a reason that is of another sort stays as preflight says it."""
    missing = [match[1] for line in reasons if (match := re.search(r" requires '([^']+)'", line))]
    other = [line.split(": ", 2)[-1] for line in reasons if not re.search(r" requires '", line)]
    return "; ".join([*([f"needs {', '.join(missing)}"] if missing else []), *other])


def _run(spec: ModelSpec) -> str:
    """Draw one picture by a fresh model; return `ran`, or what went wrong."""
    import torch

    from ditzoo.assemble import build
    from ditzoo.sampling import sample

    try:
        drawn = sample(build(spec), num_images=1, seed=0, output_type="latent").images
    except Exception as error:  # of whatever a plugin does: the table tells it and goes on
        return f"failed: {type(error).__name__}: {error}"
    return "ran" if bool(torch.isfinite(drawn).all()) else "failed: not finite"


def table(cells: Sequence[Cell], backbone: str) -> str:
    """Return one backbone's cells as a Markdown table, a row a sampler, with the reasons below it as numbered notes."""
    own = [cell for cell in cells if cell.backbone == backbone]
    schedules = list(dict.fromkeys(cell.schedule for cell in own))
    notes: dict[str, int] = {}
    lines = [f"| {backbone} | {' | '.join(schedules)} |", f"| --- |{' :-: |' * len(schedules)}"]
    for sampler, row in itertools.groupby(sorted(own, key=lambda cell: cell.sampler), key=lambda cell: cell.sampler):
        shown = {cell.schedule: _shown(cell, notes) for cell in row}
        lines.append(f"| {sampler} | {' | '.join(shown[schedule] for schedule in schedules)} |")
    return "\n".join([*lines, "", *(f"{number}. {why}" for why, number in notes.items())])


def _shown(cell: Cell, notes: dict[str, int]) -> str:
    if not cell.why:
        return cell.verdict
    return f"{cell.verdict} {notes.setdefault(cell.why, len(notes) + 1)}"


def as_data(cells: Sequence[Cell]) -> Iterator[Data]:
    """Yield each cell as plain data, without its spec."""
    for cell in cells:
        yield {name: getattr(cell, name) for name in ("backbone", "schedule", "sampler", "verdict", "why", "ran")}
