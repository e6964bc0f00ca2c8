"""The figure of a frontier: time against distance, full depth as a line and a shade, leaving early as points; and depths by noise level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ditzoo.errors import OutputError
from ditzoo_dynamic.verdict import Row, envelope


def draw(rows: Sequence[Row], reference: str, distance: str, path: Path) -> None:
    """Write the figure as a PNG. Raises `OutputError` where matplotlib is not installed."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise OutputError("the figure needs matplotlib; install it with pip install 'ditzoo[plots]'") from error
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained", width_ratios=(3, 2))
    full, early = ([row for row in rows if row.family == family] for family in ("full", "dynamic"))
    front, best = envelope(full), envelope(early)
    left.fill_between(
        [row.time for row in front], [row.distance for row in front], max(row.distance for row in rows), color="0.92", step="post"
    )
    left.plot([row.time for row in front], [row.distance for row in front], color="0.45", lw=1.5, label="full depth, best of all solvers")
    left.scatter([row.time for row in full], [row.distance for row in full], s=12, color="0.6")
    left.scatter([row.time for row in early], [row.distance for row in early], s=12, color="tab:red", alpha=0.45)
    left.plot(
        [row.time for row in best],
        [row.distance for row in best],
        color="tab:red",
        lw=1.5,
        marker="o",
        markersize=4,
        label="early exit, best",
    )
    left.set(xscale="log", yscale="log", xlabel=f"time of a run, in shares of {reference}", ylabel=distance)
    ticks = [0.1, 0.2, 0.4, 0.6, 1.0]
    left.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    heights = round_numbers(min(row.distance for row in rows), max(row.distance for row in rows))
    left.set_yticks(heights, [f"{tick:g}" for tick in heights])
    left.minorticks_off()
    left.grid(alpha=0.25)
    left.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    shown = [row for row in rows if row.name == reference] + sorted(best, key=lambda row: row.distance)[:4]
    for row in shown:
        right.step([t for t, _ in row.depths], [blocks for _, blocks in row.depths], where="mid", label=row.name)
    right.set(xlabel="t (1 is noise)", ylabel="block evaluations a picture in a look", xlim=(1.02, -0.02), ylim=(0, None))
    right.grid(alpha=0.25)
    right.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0))  # above the lines, which fill the axes
    figure.savefig(path, dpi=130)
    plt.close(figure)


def round_numbers(low: float, high: float) -> list[float]:
    """Return round numbers on a logarithmic axis from low to high, four or so; in less than a decade powers of ten are too few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)):
        ticks = [step * 10.0**decade for decade in decades for step in steps]
        if len(found := [tick for tick in ticks if low / 1.05 <= tick <= high * 1.05]) >= 4:
            break
    return found
