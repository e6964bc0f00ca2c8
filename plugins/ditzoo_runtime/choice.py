"""The runtime that is chosen by measuring: the ways to compute an MLP as wide as the model's and attention of its heads, on this machine.

What was measured is kept in a file by machine, threads, version of torch and size, so processes and later runs choose alike.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ditzoo.errors import OutputError
from ditzoo.files import cache_folder, write_text
from ditzoo.interfaces import Backbone, Runtime
from ditzoo.layers import Attention, Mlp
from ditzoo.machine import processor
from ditzoo_runtime.eager import Eager
from ditzoo_runtime.fused import Way, available, fused, written_out
from ditzoo_runtime.onednn import FewerOperations

WAYS = {"fused": Way(), "onednn": Way(packed=True), "onednn, gelu within": Way(packed=True, gelu_within=True)}
PAIR, TOKENS = 2, 256  # of a guided pair
LEAST_GAIN = 1.03  # less is within what two measurements differ by
ROUNDS, SECONDS = 9, 0.4


class Auto(Runtime):
    """The fastest of the plain modules and `WAYS`, with attention written out or not."""

    def __init__(self) -> None:
        self.chosen: Runtime = Eager()

    def prepare(self, backbone: Backbone) -> Backbone:
        way = choice(backbone)
        self.chosen = Eager() if way is None else FewerOperations(way)
        return self.chosen.prepare(backbone)

    @property
    def told(self) -> str:
        return f"auto: {self.chosen.told}"


def choice(backbone: Backbone) -> Way | None:
    """Return the fastest way to compute a backbone's layers, measured once and remembered; None where the plain modules are."""
    mlp = next((one for one in backbone.blocks.modules() if type(one) is Mlp and type(one.fc1) is nn.Linear), None)
    if mlp is None or mlp.fc1.weight.device.type != "cpu":
        return None
    width, hidden, dtype = mlp.fc1.in_features, mlp.fc1.out_features, mlp.fc1.weight.dtype
    name = _fastest(f"MLP {width}-{hidden}", dtype, lambda: gains(width, hidden, dtype))
    way = WAYS.get(name)
    attention = next((one for one in backbone.blocks.modules() if type(one) is Attention), None)
    if attention is not None:
        heads, size = attention.heads, attention.q.out_features // attention.heads
        if _fastest(f"attention {heads}x{size}", dtype, lambda: scores_gain(heads, size, dtype)):
            return replace(way or Way(), scores=True)
    return way


def _fastest(what: str, dtype: torch.dtype, measure: Callable[[], dict[str, float]]) -> str:
    """Return the way of the greatest gain, of those that are measured or remembered; "" where none gains enough."""
    key, known = f"{machine()}, {what} {str(dtype).removeprefix('torch.')}", remembered()
    if key not in known:
        known[key] = measure()
        remember(known)
    name, gain = max(known[key].items(), key=lambda item: item[1], default=("", 0.0))
    return name if gain >= LEAST_GAIN else ""


def gains(width: int, hidden: int, dtype: torch.dtype) -> dict[str, float]:
    """Return how many times as long the plain MLP takes as each way that is to be had here."""
    with torch.random.fork_rng(devices=[]):
        plain = Mlp(width, hidden).to(dtype)
        x = torch.randn(1, PAIR * TOKENS, width, dtype=dtype)
    packs = available(x.device, dtype)
    ways = {"": plain} | {name: fused(plain, way) for name, way in WAYS.items() if packs or not way.packed}
    return _in_turns({name: lambda way=way: way(x) for name, way in ways.items()})  # type: ignore[misc]


def scores_gain(heads: int, size: int, dtype: torch.dtype) -> dict[str, float]:
    """Return how many times as long torch's attention takes as the same written out."""
    with torch.random.fork_rng(devices=[]):
        q, k, v = (part.transpose(1, 2) for part in torch.randn(PAIR, TOKENS, 3, heads, size, dtype=dtype).unbind(2))
    return _in_turns({"": lambda: F.scaled_dot_product_attention(q, k, v), "scores": lambda: written_out(q, k, v)})


@torch.no_grad()
def _in_turns(ways: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """Return how many times as long "" takes as each other way.

    All take turns, and the least of the rounds is compared: what else the machine does only adds to a time.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    begun = time.perf_counter()
    while len(seconds[""]) <= ROUNDS and (len(seconds[""]) < 3 or time.perf_counter() - begun < SECONDS):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    least = {name: min(found[1:]) for name, found in seconds.items()}  # the first warms up
    return {name: round(least[""] / found, 3) for name, found in least.items() if name}


def machine() -> str:
    """Return what the choice depends on beside the layer: processor, instruction set, threads, version of torch."""
    return f"{processor()} {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def memory() -> Path:
    """Return the file that holds what was measured."""
    return cache_folder() / "runtime.json"


def remembered() -> dict[str, dict[str, float]]:
    """Return the gains that were measured here, by what they depend on; none where the file is absent or damaged."""
    try:
        data = json.loads(memory().read_text(encoding="utf-8"))
        return {str(key): {str(name): float(gain) for name, gain in found.items()} for key, found in data.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def remember(gains: dict[str, dict[str, float]]) -> None:
    """Keep gains for later runs, where the cache can be written."""
    try:
        write_text(memory(), json.dumps(gains, indent=1, sort_keys=True) + "\n")
    except OutputError:
        return
