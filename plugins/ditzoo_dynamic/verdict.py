"""What a frontier says: whether leaving early beats the best that full depth can do in the same time. Imports no torch.

The baseline that counts is not the same solver in as many steps, but the best solver in as much time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

BUDGETS = (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class Row:
    """A measured point. `time` is in shares of the reference's; `loss` is how much worse than the reference its distance is, paired."""

    name: str
    family: Literal["full", "dynamic"]
    time: float
    time_interval: tuple[float, float]
    blocks: float  # block evaluations a picture
    macs: float  # multiply-adds a picture
    distance: float
    distance_interval: tuple[float, float]
    loss: float
    loss_interval: tuple[float, float]
    agreement: float | None
    depths: list[tuple[float, float]] = field(default_factory=list)  # (t, block evaluations a picture) of each look
    settings: tuple[str, ...] = ()


def envelope(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that no other beats in both time and distance, fastest first."""
    best: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.time, row.distance)):
        if not best or row.distance < best[-1].distance:
            best.append(row)
    return best


def time_for(distance: float, front: Sequence[Row]) -> float | None:
    """Return the time at which an envelope reaches a distance, by lines in log time between its points; None if it never does."""
    if not front or distance < front[-1].distance:
        return None
    if distance >= front[0].distance:
        return front[0].time
    for fast, slow in pairwise(front):
        if slow.distance <= distance <= fast.distance:
            share = (fast.distance - distance) / (fast.distance - slow.distance)
            return math.exp((1 - share) * math.log(fast.time) + share * math.log(slow.time))
    return front[-1].time


def by_budget(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return for each time budget the best row of each family that keeps it, and whether leaving early wins, ties or loses there."""
    found = []
    for budget in BUDGETS:
        within = {family: [row for row in rows if row.family == family and row.time <= budget * 1.005] for family in ("full", "dynamic")}
        best = {family: min(own, key=lambda row: row.distance) for family, own in within.items() if own}
        found.append({"budget": budget, **{family: row.name for family, row in best.items()}, "verdict": _compared(best)})
    return found


def _compared(best: dict[str, Row]) -> str:
    if len(best) < 2:
        return "dynamic alone" if "dynamic" in best else "full alone" if best else "none"
    full, early = best["full"], best["dynamic"]
    if early.distance <= full.distance:
        return "gain" if early.distance_interval[1] < full.distance else "gain within the interval"
    return "no gain, within the interval" if early.distance_interval[0] <= full.distance else "no gain"


def gains(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return for each dynamic row how many times faster it is than full depth at its distance; None where full depth never gets there.

    A row that is faster and worse than everything at full depth is left out: how fast full depth would be as bad was not measured.
    """
    front = envelope([row for row in rows if row.family == "full"])
    told = []
    for row in rows:
        beside = bool(front) and row.time < front[0].time and row.distance > front[0].distance
        if row.family == "dynamic" and not beside:
            due = time_for(row.distance, front)
            told.append({"name": row.name, "faster": None if due is None else due / row.time})
    return told


def pick(rows: Sequence[Row], *, loss: float | None = None, time: float | None = None) -> Row | None:
    """Return the fastest row whose upper bound of loss is at most `loss`; or the one of least distance that takes at most `time`."""
    if loss is not None:
        fitting = [row for row in rows if row.loss_interval[1] <= loss]
        return min(fitting, key=lambda row: row.time, default=None)
    assert time is not None
    return min((row for row in rows if row.time <= time), key=lambda row: row.distance, default=None)


def sentence(rows: Sequence[Row]) -> str:
    """Say in a line what came out."""
    best = max((one for one in gains(rows) if one["faster"] is not None), key=lambda one: one["faster"], default=None)
    beyond = [one["name"] for one in gains(rows) if one["faster"] is None]
    won = [one["budget"] for one in by_budget(rows) if one["verdict"].startswith("gain")]
    if not won and not beyond:
        return "no gain: at every time budget some solver at full depth is as good"
    told = f"leaving early is the better way at {len(won)} of {len(BUDGETS)} time budgets"
    if best is not None and best["faster"] > 1:
        told += f"; at equal distance it is up to {best['faster']:.2f} times as fast ({best['name']})"
    if beyond:
        told += f"; {len(beyond)} settings reach distances that full depth does not"
    return told


def table(rows: Sequence[Row], distance: str) -> str:
    """Return the rows as a Markdown table, fastest first."""
    lines = [
        f"| setting | time | blocks a picture | {distance} | 95 % interval | loss, paired | agreement |",
        "| --- | --: | --: | --: | --- | --- | --: |",
    ]
    for row in sorted(rows, key=lambda row: row.time):
        low, high = row.distance_interval
        loss = f"{row.loss:+.1%} ({row.loss_interval[0]:+.1%} to {row.loss_interval[1]:+.1%})"
        agreement = "" if row.agreement is None else f"{row.agreement:.4f}"
        name = f"**{row.name}**" if row.family == "dynamic" else row.name
        lines.append(
            f"| {name} | {row.time:.3f} | {row.blocks:.0f} | {row.distance:.3f} | {low:.3f} to {high:.3f} | {loss} | {agreement} |"
        )
    return "\n".join(lines)
