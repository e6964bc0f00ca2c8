"""The same noise at full depth and leaving early, one above the other, with the time that each takes.

    python benchmarks/side_by_side.py fashion-dit-exits --out docs/early-exit.png

The way is the model's own sampler, or --set's; full depth is its inner sampler. Times are taken in turns, in one process.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import matplotlib as mpl
from ditzoo_dynamic.timing import interleaved, ratios
from early_exit import draw

from ditzoo.assemble import load_found
from ditzoo.sources import resolve
from ditzoo.zoo import Zoo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="the way to leave early")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--count", type=int, default=20, help="pictures")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, required=True)
    words = parser.parse_args()
    early = resolve(words.model, Zoo.installed(), [*words.settings, f"sampling.steps={words.steps}"]).spec
    full = early.model_copy(update={"sampler": early.sampler.inner})
    model = load_found(resolve(words.model, Zoo.installed()))
    ways = {"full depth": full, "early exit": early}
    seconds = interleaved([partial(draw, model, spec, words.count) for spec in ways.values()], words.rounds)
    took, drawn = ratios(seconds, 0), [draw(model, spec, words.count, output_type="np") for spec in ways.values()]

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(words.count, 10)
    lines = -(-words.count // columns)
    figure = plt.figure(figsize=(columns, 2 * (lines + 0.45)), layout="constrained")
    for part, name, made, ratio in zip(figure.subfigures(2, 1), ways, drawn, took, strict=True):
        blocks = made.ledger.block_evals / words.count
        part.suptitle(f"{name}: time {ratio.median:.2f}, {blocks:.0f} block evaluations a picture", fontsize=11)
        for place, picture in zip(part.subplots(lines, columns).flat, made.images, strict=False):
            place.imshow(picture.squeeze(-1) if picture.shape[-1] == 1 else picture, cmap="gray", vmin=0, vmax=1)
            place.axis("off")
    figure.savefig(words.out, dpi=110)


if __name__ == "__main__":
    main()
