"""Figures of a model computed from a meta build: parameters, multiply-adds, tokens, memory. No weights are made.

`python -m ditzoo.figures FOLDER` writes the figures of a catalogue into its `figures.json`, which `ditzoo show` reads.
"""

from __future__ import annotations

import json
import sys
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ditzoo.assemble import build_meta
from ditzoo.cards import FIGURES_FILE, Figures, figures_key
from ditzoo.files import write_text
from ditzoo.model_spec import ModelSpec
from ditzoo.zoo import Zoo

Result = TypeVar("Result")

CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # torch counts the other kernels itself


def figures(spec: ModelSpec) -> Figures:
    """Compute the figures of one forward pass of one sample at the spec's size, or what its sampler shows of it at once; no guidance."""
    model = build_meta(spec).to("meta")
    size = (spec.backbone.in_channels, *spec.sampler.seen(spec.latent_size()))
    x, t = torch.zeros(1, *size, device="meta"), torch.zeros(1, device="meta")
    cond = model.prompt.encode(spec.prompt.default(1))
    tokens = 0

    def forward() -> Tensor:
        nonlocal tokens
        stream = model.backbone.begin(x, t, cond)
        tokens = stream.tokens.shape[1]
        return model.backbone.head(model.backbone.run(stream, 0, model.backbone.depth))

    with torch.no_grad(), Fused(), PeakMemory([*model.parameters(), *model.buffers()]) as memory:
        _, macs = counted_macs(forward)
    parameters = list(model.parameters())
    return Figures(
        key=figures_key(spec),
        parameters=sum(p.numel() for p in parameters),
        macs=macs,
        tokens=tokens,
        weight_bytes=sum(p.numel() * 4 for p in parameters),
        activation_bytes=memory.peak,
    )


def counted_macs(work: Callable[[], Result]) -> tuple[Result, int]:
    """Run `work` and return its result with the multiply-adds of its matrix products, attention's included."""
    with FlopCounterMode(display=False, custom_mapping={CPU_ATTENTION: _attention_flops}) as counter:
        result = work()
    return result, counter.get_total_flops() // 2


def _attention_flops(q: Sequence[int], k: Sequence[int], v: Sequence[int], *args: Any, **kwargs: Any) -> int:
    """Count the two products of attention over shapes (B, H, N, d), (B, H, L, d), (B, H, L, e)."""
    batch, heads, queries, dim = q
    return 2 * batch * heads * queries * k[-2] * (dim + v[-1])


class Fused(TorchFunctionMode):
    """Takes attention through a fused kernel, as devices do; on meta torch would make the whole matrix of scores."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention and args[0].is_meta:
            return CPU_ATTENTION(*args[:3], 0.0, False, attn_mask=named.get("attn_mask"))[0]
        return func(*args, **named)


class PeakMemory(TorchDispatchMode):
    """Follows the storages made inside and remembers the most bytes that were alive at once; views of `given` do not count."""

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()
        self.given = {tensor.untyped_storage()._cdata for tensor in given}
        self.alive: dict[int, int] = {}
        self.bytes = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Iterable[Any] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._follow(tensor)
        return result

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.given:
            return
        if key not in self.alive:
            self.alive[key] = 0
            self.bytes += size
            self.peak = max(self.peak, self.bytes)
        self.alive[key] += 1
        weakref.finalize(tensor, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self.alive[key] -= 1
        if not self.alive[key]:
            del self.alive[key]
            self.bytes -= size


def write_figures(folder: Path, zoo: Zoo) -> None:
    """Compute the figures of every spec in a catalogue folder and write them beside the specs."""
    found = {path.stem: figures(zoo.spec(path.stem)).model_dump() for path in sorted(folder.glob("*.toml"))}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(values)}" for name, values in found.items())
    write_text(folder / FIGURES_FILE, "{\n" + lines + "\n}\n")


if __name__ == "__main__":
    write_figures(Path(sys.argv[1]), Zoo.installed())
