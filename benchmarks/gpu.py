"""A look at guided pairs of 32x32 latents on a GPU: ditzoo's runtimes beside diffusers, eager and compiled, and beside the limit.

    python benchmarks/gpu.py dit-s-2 dit-xl-2 --pairs 1 8 64 --out gpu.json

All have the same random weights and run in turns in one process, many looks to a turn. In fp32 outputs agree to 1e-4, or the benchmark
fails; in bfloat16 their errors against fp32 are printed, as shares of the output's scale. `products` are those of the blocks' linear layers
alone. Every figure is of the device that it names, and ratios of times there.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from ditzoo_dynamic.timing import interleaved, ratios
from forward import error, layers, near, random_model, theirs
from torch import Tensor

from ditzoo.assemble import Model
from ditzoo.interfaces import Cond
from ditzoo.zoo import Zoo

RUNTIMES: dict[str, Any] = {
    "eager": "eager",
    "compile": "compile",
    "cuda-graphs": "cuda-graphs",
    "cuda-graphs, compile": {"kind": "cuda-graphs", "inner": "compile"},
}
TOKENS = 256


def repeated(work: Callable[[], Any], looks: int) -> None:
    """Look many times, and wait for the GPU once."""
    for _ in range(looks):
        work()
    torch.cuda.synchronize()


def products(model: Model, rows: int, dtype: torch.dtype) -> Callable[[], None]:
    """Return the products of the blocks' linear layers: queries, keys and values as one, with weights of their own for each block."""
    depth, dressed = model.spec.backbone.depth, {"dtype": dtype, "device": "cuda"}  # type: ignore[attr-defined]
    weights = [torch.randn(size, **dressed) for _ in range(depth) for size in layers(model)]
    tokens = {into: torch.randn(rows * TOKENS, into, **dressed) for _, into in layers(model)}

    def multiply() -> None:
        for weight in weights:
            F.linear(tokens[weight.shape[1]], weight)

    return multiply


@torch.no_grad()
def measured(name: str, pairs: int, dtype: torch.dtype, rounds: int, zoo: Zoo) -> dict[str, Any]:
    """Return the time of each way in that of diffusers' compiled network, and the errors of one in bfloat16."""
    model = random_model(name, zoo)
    spec, rows = model.spec, 2 * pairs
    network, alike = (one.to("cuda") for one in theirs(model, zoo))
    model = model.to("cuda")
    size = (pairs, spec.backbone.in_channels, *spec.latent_size())
    x = torch.randn(size, generator=torch.Generator().manual_seed(1)).repeat(2, 1, 1, 1).cuda()
    t, classes = torch.full((rows,), 500.0, device="cuda"), spec.prompt.classes  # type: ignore[attr-defined]
    labels = torch.tensor([7] * pairs + [classes] * pairs, device="cuda")

    def ours(one: Model) -> Tensor:
        return one.runner(x.to(one.dtype), t, Cond.cat([one.prompt.encode([7] * pairs), one.prompt.null(pairs)]))

    def diffusers(net: Any) -> Tensor:
        return net(x.to(next(network.parameters()).dtype), timestep=t, class_labels=labels, return_dict=False)[0]

    model.runtime = alike.runtime = zoo.part("runtime", "eager").build()  # type: ignore[attr-defined]
    full, full_alike = ours(model), ours(alike)
    near(diffusers(network), full_alike, "diffusers")
    model, network = model.to(dtype), network.to(dtype)
    compiled, reduced = torch.compile(network), torch.compile(network, mode="reduce-overhead")
    ways: dict[str, Callable[[], Tensor]] = {}
    for said, runtime in RUNTIMES.items():
        one = copy.copy(model)  # it prepares its own
        one.runtime = zoo.part("runtime", runtime).build()  # type: ignore[attr-defined]
        ways[f"ditzoo, {said}"] = partial(ours, one)
    ways |= {"diffusers": partial(diffusers, network), "diffusers, compiled": partial(diffusers, compiled)}
    ways["diffusers, reduce-overhead"] = partial(diffusers, reduced)
    errors = {}
    for said, way in ways.items():
        way(), way()  # the second is recorded
        expected = full if said.startswith("ditzoo") else full_alike
        found = way()
        errors[said] = error(found, expected)
        if dtype == torch.float32:
            near(found, expected, said)
    works = [*ways.values(), products(model, rows, dtype)]
    once = interleaved([partial(repeated, work, 3) for work in works], 1).max() / 3
    looks = max(3, min(50, int(0.1 / float(once))))
    seconds = interleaved([partial(repeated, work, looks) for work in works], rounds) / looks
    reference = list(ways).index("diffusers, compiled")
    made = {}
    for said, ratio, median in zip([*ways, "products"], ratios(seconds, reference), seconds.median(0).values.tolist(), strict=True):
        apart = f"; error {errors[said]:.1e}" if said in errors else ""
        print(f"{said:<30}{1e3 * median:9.3f} ms   {ratio.median:6.2f} of diffusers compiled ({ratio.low:.2f} to {ratio.high:.2f}){apart}")
        made[said] = {"ms": round(1e3 * median, 4), "ratio": [round(float(part), 3) for part in ratio], "error": errors.get(said)}
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--pairs", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    words = parser.parse_args()
    zoo, device = Zoo.installed(), torch.cuda.get_device_name()
    found = []
    for name in words.models:
        for pairs in words.pairs:
            print(f"{name}, {pairs} guided pairs, {words.dtype}, {device}, torch {torch.__version__}", flush=True)
            ways = measured(name, pairs, getattr(torch, words.dtype), words.rounds, zoo)
            found.append({"model": name, "pairs": pairs, "dtype": words.dtype, "device": device, "torch": torch.__version__, "ways": ways})
            if words.out is not None:
                words.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            torch.compiler.reset()


if __name__ == "__main__":
    main()
