"""Draws with every composition of parts whose tokens processes can share out; started by tests, alone or under a launcher.

python together.py OUT RUNTIME
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from conftest import compositions, tiny, wake
from safetensors.torch import save_file

from ditzoo.assemble import Model, build
from ditzoo.errors import DitzooError
from ditzoo.launched import speaks
from ditzoo.model_spec import ModelSpec
from ditzoo.zoo import Zoo


def named(spec: ModelSpec) -> str:
    attention = getattr(spec.backbone, "attention", None)
    return " ".join([spec.backbone.kind, spec.conditioning.kind, spec.prompt.kind, attention.kind if attention else "", spec.sampler.kind])


VIDEO = {"kind": "video-dit", "width": 32, "depth": 2, "heads": 2, "in_channels": 3, "input_size": [4, 10, 6], "patch": [2, 2, 2]}
WORDS = {"kind": "text-tokens", "vocabulary": ["red", "bag"], "length": 3, "heads": 2}


def clips(zoo: Zoo) -> Iterator[ModelSpec]:
    """Windows, tokens that do not come out even, prompts of several lengths with masks, early exits, tables that join later."""
    windowed = VIDEO | {"attention": {"kind": "windowed", "window": [1, 2, 3]}}
    for conditioning in ("cross-attention", "in-context", "adaln-zero"):
        yield zoo.model(tiny(backbone=windowed, conditioning=conditioning, prompt=WORDS, guidance={"scale": 2.0}))
    later = VIDEO | {"positions": {"kind": "sincos", "joins": 1}, "depth": 3}
    early = {"kind": "early-exit", "inner": {"kind": "ddim"}, "policy": {"kind": "exit-residual", "prefix": 1, "every": 2}}
    yield zoo.model(tiny(backbone=later, sampler=early))


def drawn(model: Model) -> torch.Tensor:
    items = {"prompt": ["red bag", "bag", ""]} if model.spec.prompt.kind == "text-tokens" else {"class_labels": [0, 1, 2]}
    return model.sample(**items, num_inference_steps=4, output_type="latent").images


def main(out: str, runtime: str) -> None:
    zoo, made = Zoo.installed(), {}
    for spec in [*compositions(zoo), *clips(zoo)]:
        try:
            model = wake(build(spec)).requires_grad_(False)
            model.runtime = zoo.part("runtime", runtime).build() if runtime != "none" else None
            made.setdefault(named(spec), drawn(model))
        except DitzooError as error:
            print(named(spec), error)
    if speaks():
        save_file(made, out)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
