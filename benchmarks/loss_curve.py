"""Draw a run's loss curve from its log.

python benchmarks/loss_curve.py runs/fashion-dit/log.csv docs/fashion-dit-loss.png      (needs matplotlib)
"""

from __future__ import annotations

import csv
from pathlib import Path

import click


@click.command()
@click.argument("log", type=click.Path(exists=True, path_type=Path))
@click.argument("picture", type=click.Path(path_type=Path))
def main(log: Path, picture: Path) -> None:
    """Draw the loss of LOG against steps and epochs into PICTURE."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    steps, losses = [int(row["step"]) for row in rows], [float(row["loss"]) for row in rows]
    epochs = float(rows[-1]["epoch"]) / steps[-1]
    figure, axes = pyplot.subplots(figsize=(6.4, 3.2), constrained_layout=True)
    axes.plot(steps, losses, linewidth=1.2)
    axes.set(xlabel="step", ylabel="loss (mean squared error)", yscale="log")
    axes.yaxis.set_minor_locator(ticker.LogLocator(subs=(2, 3, 5)))
    for which in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        which("{x:g}")
    axes.grid(alpha=0.3, which="both")
    axes.secondary_xaxis("top", functions=(lambda s: s * epochs, lambda e: e / epochs)).set_xlabel("epoch")
    figure.savefig(picture, dpi=130)


if __name__ == "__main__":
    main()
