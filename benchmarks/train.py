"""Training throughput of DiT-S/4 at batch 64: ditzoo's loop beside hand-written ones, in one process, step by step in turn.

    python benchmarks/train.py --steps 8
    python benchmarks/train.py --batch 16 --depth 4 --steps 20       # a smaller one

`framework` is a step of a recipe: the data loader, the draws, the schedule, clipping, AdamW, the average of weights. `bare` is a loop
written by hand over the same modules, `published` one over modules as the published DiT has them (tests/reference_dit.py); both with the
loss of eps, clipping, AdamW and an average of weights, parameter by parameter as the published training code does it. Ratios are medians
over neighbouring steps.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ditzoo.assemble import build
from ditzoo.specs import DatasetSpec
from ditzoo.training.loop import prepare
from ditzoo.training.recipe import Recipe
from ditzoo.zoo import Zoo

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from reference_dit import ReferenceDiT

LR, DECAY, CLASSES = 1e-4, 0.9999, 1000


class NoiseSpec(DatasetSpec):
    """Random latents, so that only the loop is measured."""

    kind: Literal["noise"] = "noise"
    size: int = 32

    @property
    def item_size(self) -> tuple[int, ...]:
        return (self.size, self.size)

    @property
    def item_channels(self) -> int:
        return 4

    @property
    def item_classes(self) -> int:
        return CLASSES

    def build(self) -> Any:
        return Noise(self)


class Noise:
    names = ()

    def __init__(self, spec: NoiseSpec) -> None:
        self.latents = torch.randn(512, 4, *spec.item_size)

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixels": self.latents[index], "item": index % CLASSES}


def by_hand(network: torch.nn.Module, batch: int, latents: Tensor) -> Callable[[], None]:
    """Return a step of a loop as one writes it: eps loss on the linear schedule."""
    average = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=0)
    alphas = (1 - torch.linspace(1e-4, 0.02, 1000)).cumprod(0)

    def step() -> None:
        rows = torch.randint(len(latents), (batch,))
        x0, labels = latents[rows], rows % CLASSES
        labels = torch.where(torch.rand(batch) < 0.1, CLASSES, labels)
        t, noise = torch.randint(1000, (batch,)), torch.randn_like(x0)
        level = alphas[t][:, None, None, None]
        out = network(level.sqrt() * x0 + (1 - level).sqrt() * noise, t.float(), labels)
        loss = (out - noise).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for a, p in zip(average.parameters(), network.parameters(), strict=True):
                a.mul_(DECAY).add_(p, alpha=1 - DECAY)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--steps", type=int, default=8)
    words = parser.parse_args()
    zoo = Zoo.installed()
    spec = zoo.spec(
        "dit-s-4", [f"backbone.depth={words.depth}", "backbone.learn_sigma=false", "sampler.kind=ddim", "codec={kind='pixels', channels=4}"]
    )
    length = {"steps": words.steps + 1, "batch_size": words.batch, "ema": DECAY}
    recipe = zoo.validate(Recipe, {"name": "bench", "model": spec, "data": NoiseSpec(), "optimizer": {"lr": LR}, "length": length})
    latents = torch.randn(512, 4, 32, 32)
    with tempfile.TemporaryDirectory() as folder:
        run = prepare(recipe, Path(folder))
        loader = iter(run.batches())

        def framework() -> None:
            run.step(run.done, next(loader))
            run.done += 1

        network = ReferenceDiT((32, 32), 4, 4, 384, words.depth, 6, CLASSES, learn_sigma=False)
        steps = {
            "framework": framework,
            "bare": by_hand(build(spec).train(), words.batch, latents),
            "published": by_hand(network, words.batch, latents),
        }
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for turn in range(words.steps + 1):
            for name, step in steps.items():
                begun = time.perf_counter()
                step()
                if turn:
                    seconds[name].append(time.perf_counter() - begun)
    for name, found in seconds.items():
        print(f"{name:<10}{statistics.median(found):8.3f} s a step {words.batch / statistics.median(found):8.1f} pictures a second")
    for name in ("bare", "published"):
        ratio = statistics.median(b / a for a, b in zip(seconds["framework"], seconds[name], strict=True))
        print(f"{name} takes {ratio:.3f} times the framework's time")


if __name__ == "__main__":
    main()
