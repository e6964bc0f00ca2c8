"""What supervising exits costs: the time of a training step with the loss of exits against one without, in turns, in one process.

python benchmarks/exit_training.py fashion-dit --at 2 4 6
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

from ditzoo_dynamic.timing import interleaved, ratios

from ditzoo.training.loop import prepare
from ditzoo.training.recipe import read_recipe
from ditzoo.zoo import Zoo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--at", type=int, nargs="+", default=[2, 4, 6])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args()
    zoo, size = Zoo.installed(), f"length.batch_size={args.batch_size}"
    exits = [f"model.exits={{kind='offset', at={args.at}}}", "losses=[{kind='exits'}]"]
    with tempfile.TemporaryDirectory() as folder:
        runs = [prepare(read_recipe(args.recipe, zoo, [size, *more]), Path(folder)) for more in ([], exits)]
        batch = next(iter(runs[0].batches()))
        _, found = ratios(interleaved([partial(run.step, 0, batch) for run in runs], args.rounds), 0)
    print(f"a step with exits at {args.at} takes {found.median:.3f} ({found.low:.3f} to {found.high:.3f}) of one without")


if __name__ == "__main__":
    main()
