"""Of the multiply-adds that leaving early saves, the share that is saved in time, at several batch sizes.

    python benchmarks/early_exit.py fashion-dit-exits --set "sampler={kind='early-exit', inner='ab2', null_exit=2}"

Both ways draw the same pictures in turns, in one process; every --set is a way of its own. Realised is (1 - time) / (1 - multiply-adds).
"""

from __future__ import annotations

import argparse
from functools import partial

from ditzoo_dynamic.timing import interleaved, ratios

from ditzoo.assemble import load_found
from ditzoo.sampling import sample
from ditzoo.sources import resolve
from ditzoo.zoo import Zoo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--set", dest="ways", action="append", required=True, help="a way to leave early")
    parser.add_argument("--against", action="append", default=[], help="settings of the full depth; default: the way's inner sampler")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    zoo, steps = Zoo.installed(), f"sampling.steps={args.steps}"
    model = load_found(resolve(args.model, zoo))
    print("way | batch | time | 95 % interval | multiply-adds | blocks | realised")
    for way in args.ways:
        early = resolve(args.model, zoo, [way, steps]).spec
        full = early.model_copy(update={"sampler": early.sampler.inner})
        if args.against:
            full = resolve(args.model, zoo, [*args.against, steps]).spec
        for batch in args.batches:
            runs = [partial(draw, model, spec, batch) for spec in (full, early)]
            spent = [run(count_macs=True).ledger for run in runs]
            share, blocks = spent[1].macs / spent[0].macs, spent[1].block_evals / spent[0].block_evals
            _, time = ratios(interleaved(runs, args.rounds), 0)
            realised = (1 - time.median) / (1 - share)
            print(
                f"{way} | {batch} | {time.median:.3f} | {time.low:.3f} to {time.high:.3f} | {share:.3f} | {blocks:.3f} | {realised:.2f}",
                flush=True,
            )


def draw(model, spec, batch, output_type="latent", **more):
    return sample(model.under(spec), num_images=batch, seed=0, output_type=output_type, batch_size=batch, **more)


if __name__ == "__main__":
    main()
