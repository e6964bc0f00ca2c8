"""Quality against looks of the network for several solvers, by an evaluation protocol; a CSV and a figure.

    python benchmarks/steps.py fashion-dit --out docs/fashion-dit-steps --count 1000

Every solver is given the same numbers of looks, so that one with two looks a step takes half the steps. Evaluations are kept in a folder
beside, and go on where they were interrupted.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from ditzoo.evaluation.protocol import read_protocol
from ditzoo.evaluation.run import evaluate
from ditzoo.sources import resolve
from ditzoo.zoo import Zoo

SOLVERS = {
    "ddim": ["sampler.kind=ddim", "sampler.clip=1.0"],
    "ddpm": ["sampler.kind=ddpm", "sampler.clip=1.0"],
    "heun": ["sampler.kind=heun", "sampler.along=path"],
    "ab2": ["sampler.kind=ab2"],
    "dpm-solver++ 2M": ["sampler.kind=dpm-solver++"],
    "unipc": ["sampler.kind=unipc"],
}
TWICE = {"heun"}  # looks a step, but for the last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--out", type=Path, required=True, help="CSV and PNG, without their endings")
    parser.add_argument("--protocol", default="fashion")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--looks", type=int, nargs="+", default=[5, 9, 15, 25, 49])
    parser.add_argument("--work", type=Path, default=Path("evaluations/steps"))
    args = parser.parse_args()
    zoo, rows = Zoo.installed(), []
    protocol = read_protocol(args.protocol, zoo, [f"count={args.count}", f"kid_subset_size={min(1000, args.count)}", "resamples=100"])
    for solver, settings in SOLVERS.items():
        for looks in args.looks:
            steps = (looks + 1) // 2 if solver in TWICE else looks
            found = resolve(args.model, zoo, [*protocol.settings, *settings, f"sampling.steps={steps}"])
            made = evaluate(found, protocol, args.work / f"{solver}-{looks}".replace(" ", "-"))
            figures = next(iter(made["seeds"].values()))
            low, high = figures["frechet"]["interval_95"]
            rows.append([solver, looks, steps, figures["frechet"]["value"], low, high, figures["label_agreement"]["value"]])
            print(*(f"{value:.4g}" if isinstance(value, float) else value for value in rows[-1]), sep=",", flush=True)
    with args.out.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["solver", "looks", "steps", "frechet", "low", "high", "label_agreement"], *rows])
    draw(rows, args.out.with_suffix(".png"), made["distance_is"])


def draw(rows: list[list[float | int | str]], path: Path, distance: str) -> None:
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for solver in SOLVERS:
        own = [row for row in rows if row[0] == solver]
        axes.plot([row[1] for row in own], [row[3] for row in own], marker="o", markersize=4, label=solver)
    axes.set(xlabel="looks of the network, guided", ylabel=distance, xscale="log", yscale="log")
    looks = sorted({int(row[1]) for row in rows})
    axes.set_xticks(looks, [str(count) for count in looks])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 6, 8)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.minorticks_off()
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
