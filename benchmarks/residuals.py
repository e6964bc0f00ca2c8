"""What the settings of the policy exit-residual cost and lose: blocks run, and the error of finished pictures, against full depth.

    python benchmarks/residuals.py fashion-dit --every 2 3 4 --reach 0 0.5 1 2 --whole-above 0.8

The error is the mean square between the ends of runs from the same noise. It ranks settings in a minute or two; whether quality is lost
is what `ditzoo frontier` measures.
"""

from __future__ import annotations

import argparse
import itertools

from ditzoo_dynamic.points import inline, own_solver
from early_exit import draw

from ditzoo.assemble import load_found
from ditzoo.sources import resolve
from ditzoo.zoo import Zoo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--count", type=int, default=48, help="pictures")
    parser.add_argument("--prefix", type=int, nargs="+", default=[1])
    parser.add_argument("--every", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--reach", type=float, nargs="+", default=[0.0, 0.5, 1.0, 2.0])
    parser.add_argument("--whole-above", type=float, nargs="+", default=[0.8])
    words = parser.parse_args()
    zoo, steps = Zoo.installed(), f"sampling.steps={words.steps}"
    whole = resolve(words.model, zoo, [steps])
    model, solver = load_found(whole), own_solver(whole.spec)
    expected = draw(model, whole.spec, words.count)
    print("prefix | every | whole above | reach | blocks | mean square error")
    for prefix, every, above, reach in itertools.product(words.prefix, words.every, words.whole_above, words.reach):
        policy = {"kind": "exit-residual", "prefix": prefix, "every": every, "whole_above": above, "reach": reach}
        sampler = {"kind": "early-exit", "inner": solver, "policy": policy}
        found = draw(model, resolve(words.model, zoo, [steps, f"sampler={inline(sampler)}"]).spec, words.count)
        error = float((found.images - expected.images).float().square().mean())
        share = found.ledger.block_evals / expected.ledger.block_evals
        print(f"{prefix} | {every} | {above:g} | {reach:g} | {share:.3f} | {error:.2e}", flush=True)


if __name__ == "__main__":
    main()
