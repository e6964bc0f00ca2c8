"""One look at a guided pair of 32x32 latents: ditzoo beside diffusers, eager and compiled, beside the published style, and the limit.

    python benchmarks/forward.py dit-s-2
    python benchmarks/forward.py dit-xl-2 --no-compile --out docs/speed/forward-dit-xl-2.json
    python benchmarks/forward.py dit-s-2 --dtype bfloat16

All have the same random weights, run in turns in one process, and their outputs agree to 1e-4 or the benchmark fails. `ditzoo` is a call of
the model under the runtime that it chooses by itself; `in a run` is a look of a sampler that knows its times, whose modulations were
computed ahead. `published` is a module in the style of the published code (tests/reference_dit.py), in fp32 alone, as that code runs.
`products` are the products of the blocks' linear layers alone, in torch's own or packed by oneDNN, whichever is faster: nothing with the
same products can be faster. In bfloat16 the errors of ditzoo and of diffusers against fp32 are printed, as shares of the output's scale.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from ditzoo_dynamic.timing import interleaved, ratios
from ditzoo_runtime.fused import available, pack
from table import keep, row
from torch import Tensor

from ditzoo.assemble import Model, build, runtime_of
from ditzoo.conversion import layout_for, translated
from ditzoo.denoiser import Ledger
from ditzoo.interfaces import Cond
from ditzoo.machine import instructions, processor
from ditzoo.request import Steering
from ditzoo.sampling import denoiser_of
from ditzoo.zoo import Zoo

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from reference_dit import ReferenceDiT

PAIR = 2
GUIDED = ("guidance.scale=1.5", "sampler={kind='ddim'}")
Work = Callable[[], Any]


def random_model(name: str, zoo: Zoo, *settings: str) -> Model:
    """Build a model whose every weight does something, under the runtime that it would be loaded with."""
    model = build(zoo.spec(name, [*GUIDED, *settings])).requires_grad_(False).eval()
    drawn = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.normal_(std=0.02, generator=drawn)
    model.runtime = runtime_of(model.spec, zoo)
    return model


def published(model: Model, zoo: Zoo) -> ReferenceDiT:
    """Return the module in the published style, with the model's weights."""
    b = model.spec.backbone
    classes = model.spec.prompt.classes  # type: ignore[attr-defined]
    module = ReferenceDiT(b.input_size, b.patch, b.in_channels, b.width, b.depth, b.heads, classes, learn_sigma=b.learn_sigma)  # type: ignore[attr-defined, arg-type]
    module.load_state_dict(translated(model, layout_for(model.spec, "original", zoo)), assign=True)
    return module.eval().requires_grad_(False)


def theirs(model: Model, zoo: Zoo) -> tuple[Any, Model]:
    """Return diffusers' network with the model's weights, and the model with its numerics."""
    alike = build(zoo.spec(model.spec.name, [*GUIDED, "backbone.numerics=diffusers"])).eval()
    alike.load_state_dict(model.state_dict(), assign=True)
    alike.requires_grad_(False).runtime = model.runtime
    layout = layout_for(alike.spec, "diffusers", zoo)
    network = layout.their_network(alike.spec)
    network.load_state_dict(translated(alike, layout), assign=True)
    return network.eval().requires_grad_(False), alike


def layers(model: Model) -> tuple[tuple[int, int], ...]:
    """Return the sizes (out, in) of a block's linear layers: queries, keys and values as one."""
    spec = model.spec.backbone
    width, hidden = spec.width, int(spec.width * spec.mlp_ratio)  # type: ignore[attr-defined]
    return (3 * width, width), (width, width), (hidden, width), (width, hidden)


def products(model: Model, rows: int, dtype: torch.dtype) -> dict[str, Work]:
    """Return the products of the blocks' linear layers with `rows` tokens, in each library: queries, keys and values as one."""
    depth, weights = model.spec.backbone.depth, [torch.randn(size, dtype=dtype) for size in layers(model)]  # type: ignore[attr-defined]
    tokens = {into: torch.randn(rows, into, dtype=dtype) for _, into in layers(model)}

    def plain() -> None:
        for _ in range(depth):
            for weight in weights:
                F.linear(tokens[weight.shape[1]], weight)

    ways: dict[str, Work] = {"products, torch": plain}
    if available(torch.device("cpu"), dtype):
        packed = [(pack(weight, rows), weight.shape[1]) for weight in weights]

        def by_onednn() -> None:
            for _ in range(depth):
                for weight, into in packed:
                    torch.ops.mkldnn._linear_pointwise(tokens[into], weight, None, "none", [], "")

        ways["products, oneDNN"] = by_onednn
    return ways


def error(found: Tensor, expected: Tensor) -> float:
    """Return the greatest error of an output, of its scale."""
    return float((found.float() - expected).abs().max() / expected.abs().max())


def near(found: Tensor, expected: Tensor, what: str) -> None:
    """Stop where two outputs that have to be one differ."""
    if not (apart := error(found, expected)) <= 1e-4:
        raise SystemExit(f"{what}: outputs are {apart:.1e} of their scale apart")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--out", type=Path, help="write the figures as JSON, for benchmarks/table.py")
    words = parser.parse_args()
    zoo, dtype = Zoo.installed(), getattr(torch, words.dtype)
    model = random_model(words.model, zoo)
    spec = model.spec
    x = torch.randn(1, spec.backbone.in_channels, *spec.latent_size(), generator=torch.Generator().manual_seed(1)).repeat(PAIR, 1, 1, 1)
    t, classes = torch.full((PAIR,), 500.0), spec.prompt.classes  # type: ignore[attr-defined]
    labels = torch.tensor([7, classes])  # the null row is last
    network, alike = theirs(model, zoo)
    reference = published(model, zoo)

    def ours(one: Model) -> Tensor:
        return one.runner(x.to(one.dtype), t, Cond.cat([one.prompt.encode([7]), one.prompt.null(1)]))

    def diffusers(net: Any) -> Tensor:
        return net(x.to(dtype), timestep=t, class_labels=labels, return_dict=False)[0]

    full = ours(model)
    near(network(x, timestep=t, class_labels=labels, return_dict=False)[0], full_alike := ours(alike), "diffusers")
    near(reference(x, t, labels), full, "published")
    errors = {}
    if dtype != torch.float32:
        model, network = model.to(dtype), network.to(dtype)
        errors = {"ditzoo": error(ours(model), full), "diffusers": error(diffusers(network), full_alike)}
    denoiser = denoiser_of(model, spec, [7], Ledger(), Steering())
    time = denoiser.schedule.times(spec.sampling.steps)[spec.sampling.steps // 2]
    latents = x[:1].to(dtype)
    ways: dict[str, Work] = {
        "ditzoo": lambda: ours(model),
        "ditzoo, in a run": lambda: denoiser(latents, time),
        "diffusers": lambda: diffusers(network),
    }
    if dtype == torch.float32:
        ways["published"] = lambda: reference(x, t, labels)
    if not words.no_compile:
        compiled = torch.compile(network)
        first = diffusers(compiled)
        if dtype == torch.float32:
            near(first, full_alike, "diffusers, compiled")
        else:
            errors["diffusers, compiled"] = error(first, full_alike)
        ways["diffusers, compiled"] = lambda: diffusers(compiled)
    ways |= products(model, PAIR * 256, dtype)
    seconds = interleaved(list(ways.values()), words.rounds)
    rows = []
    for name, ratio, median in zip(ways, ratios(seconds, 0), seconds.median(0).values.tolist(), strict=True):
        known = {"error": float(f"{errors[name]:.2g}")} if name in errors else {}
        rows.append(row(name, ratio, **known))
        said = f"; error {errors[name]:.1e}" if known else ""
        print(f"{name:<22}{1e3 * median:9.1f} ms   {ratio.median:6.2f} times ditzoo's time ({ratio.low:.2f} to {ratio.high:.2f}){said}")
    told = model.runtime.told if model.runtime is not None else "eager"
    print(f"runtime {told}; {words.dtype}; {torch.get_num_threads()} threads; {processor()} {' '.join(instructions())}")
    what = "a look at a guided pair" + ("" if dtype == torch.float32 else f", {words.dtype}")
    keep(words.out, words.model, what, rows, runtime=told)


if __name__ == "__main__":
    main()
