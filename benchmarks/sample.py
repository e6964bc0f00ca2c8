"""Guided sampling from load to pictures: ditzoo beside the same modules in a plain eager loop, in turns, in one process.

    python benchmarks/sample.py fashion-dit --batch 64 --steps 20 --out docs/speed/sample-fashion-dit.json

The loop is written as one writes it: both branches of guidance as one batch, DDIM by hand, time and prompt embedded in every step. It draws
the same pictures to 1e-4, or the benchmark fails. `eager` is ditzoo without a runtime, so what its loop alone brings.
"""

from __future__ import annotations

import argparse
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from ditzoo_dynamic.timing import interleaved, ratios
from table import keep, row
from torch import Tensor

import ditzoo
from ditzoo.assemble import Model
from ditzoo.interfaces import Cond
from ditzoo.machine import instructions, processor
from ditzoo.noise import Noise


@torch.no_grad()
def by_hand(model: Model, items: list[Any], steps: int, begun: Tensor) -> Tensor:
    """Walk DDIM with guidance over the plain modules, from noise (B, C, H, W) to data."""
    schedule, scale, x = model.spec.schedule.build(), model.spec.guidance.scale, begun
    for t, after in pairwise(schedule.times(steps)):
        cond = Cond.cat([model.prompt.encode(items), model.prompt.null(len(items))])
        out = model.backbone(torch.cat([x, x]), schedule.model_time(t).float().expand(2 * len(x)), cond)
        asked, absent = out.chunk(2)
        v = absent + scale * (asked - absent)
        (a, s), (b, r) = (map(float, schedule.alpha_sigma(time)) for time in (t, after))
        x0 = (a * x - s * v).clamp(-1, 1)
        x = b * x0 + r * (x - a * x0) / s
    return x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="one that predicts v and is sampled by ddim with clip=1, as fashion-dit")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, help="write the figures as JSON, for benchmarks/table.py")
    words = parser.parse_args()
    model, eager = ditzoo.load(words.model), ditzoo.load(words.model, runtime="eager")
    items = model.spec.prompt.default(words.batch)
    size = (model.spec.backbone.in_channels, *model.spec.latent_size())
    begun = Noise.seeded(0, range(words.batch)).draw(torch.empty(words.batch, *size))
    asked = {"num_images": words.batch, "num_inference_steps": words.steps, "latents": begun, "output_type": "latent"}
    expected = by_hand(eager, items, words.steps, begun)
    apart = float((model.sample(**asked).images - expected).abs().max() / expected.abs().max())
    if not apart <= 1e-4:
        raise SystemExit(f"pictures are {apart:.1e} of their scale apart")
    ways = {
        "ditzoo": partial(model.sample, **asked),
        "ditzoo, eager": partial(eager.sample, **asked),
        "plain loop": partial(by_hand, eager, items, words.steps, begun),
        "load and ditzoo": lambda: ditzoo.load(words.model).sample(**asked),
        "load and plain loop": lambda: by_hand(ditzoo.load(words.model, runtime="eager"), items, words.steps, begun),
    }
    seconds = interleaved(list(ways.values()), words.rounds)
    rows = []
    for name, ratio, median in zip(ways, ratios(seconds, 0), seconds.median(0).values.tolist(), strict=True):
        rows.append(row(name, ratio))
        print(f"{name:<22}{median:8.3f} s   {ratio.median:6.2f} times ditzoo's time ({ratio.low:.2f} to {ratio.high:.2f})")
    assert model.runtime is not None
    told = model.runtime.told
    print(f"runtime {told}; {torch.get_num_threads()} threads; {processor()} {' '.join(instructions())}")
    keep(words.out, words.model, f"{words.batch} pictures in {words.steps} guided steps", rows, runtime=told)


if __name__ == "__main__":
    main()
