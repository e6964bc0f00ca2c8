"""The runtime that is chosen by measuring: the ways to compute an MLP as wide as the model's, on this machine.

What was measured is kept in a file by machine, threads, version of torch and width, so processes and later runs choose alike.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from ditzoo.errors import OutputError
from ditzoo.files import cache_folder, write_text
from ditzoo.interfaces import Backbone, Runtime
from ditzoo.layers import Mlp
from ditzoo.machine import processor
from ditzoo_runtime.eager import Eager
from ditzoo_runtime.fused import Way, available, fused
from ditzoo_runtime.onednn import FewerOperations

WAYS = {"fused": Way(), "onednn": Way(packed=True), "onednn, gelu within": Way(packed=True, gelu_within=True)}
TOKENS = 512  # of a guided pair of 256 each
LEAST_GAIN = 1.03  # less is within what two measurements differ by
ROUNDS, SECONDS = 9, 0.4


class Auto(Runtime):
    """The fastest of the plain modules and `WAYS`."""

    def __init__(self) -> None:
        self.chosen: Runtime = Eager()

    def prepare(self, backbone: Backbone) -> Backbone:
        best = choice(backbone)
        self.chosen = Eager() if best is None else FewerOperations(WAYS[best])
        return self.chosen.prepare(backbone)

    @property
    def told(self) -> str:
        return f"auto: {self.chosen.told}"


def choice(backbone: Backbone) -> str | None:
    """Return which of `WAYS` is the fastest for a backbone's MLPs, measured once and remembered; None where the plain modules are."""
    mlp = next((one for one in backbone.blocks.modules() if type(one) is Mlp and type(one.fc1) is nn.Linear), None)
    if mlp is None or mlp.fc1.weight.device.type != "cpu":
        return None
    width, hidden, dtype = mlp.fc1.in_features, mlp.fc1.out_features, mlp.fc1.weight.dtype
    key = f"{machine()}, MLP {width}-{hidden} {str(dtype).removeprefix('torch.')}"
    known = remembered()
    if key not in known:
        known[key] = gains(width, hidden, dtype)
        remember(known)
    name, gain = max(known[key].items(), key=lambda item: item[1], default=("", 0.0))
    return name if gain >= LEAST_GAIN and name in WAYS else None


def gains(width: int, hidden: int, dtype: torch.dtype) -> dict[str, float]:
    """Return how many times as long the plain MLP takes as each way that is to be had here.

    All take turns, and the least of the rounds is compared: what else the machine does only adds to a time.
    """
    with torch.random.fork_rng(devices=[]):
        plain = Mlp(width, hidden).to(dtype)
        x = torch.randn(1, TOKENS, width, dtype=dtype)
    packs = available(x.device, dtype)
    ways: dict[str, nn.Module] = {"": plain}
    ways |= {name: fused(plain, way) for name, way in WAYS.items() if packs or not way.packed}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    begun = time.perf_counter()
    with torch.no_grad():
        while len(seconds[""]) <= ROUNDS and (len(seconds[""]) < 3 or time.perf_counter() - begun < SECONDS):
            for name, way in ways.items():
                seconds[name].append(_timed(way, x))
    least = {name: min(found[1:]) for name, found in seconds.items()}  # the first warms up
    return {name: round(least[""] / found, 3) for name, found in least.items() if name}


def _timed(module: nn.Module, x: Tensor) -> float:
    begun = time.perf_counter()
    module(x)
    return time.perf_counter() - begun


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
