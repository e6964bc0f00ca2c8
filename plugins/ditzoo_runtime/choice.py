"""The runtime that is chosen by measuring: packed weights against the plain ones, on this machine, at the width of the model's layers.

What was measured is kept in a file by machine, version of torch, threads and shape, so processes and later runs choose alike.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditzoo.errors import OutputError
from ditzoo.files import write_text
from ditzoo.interfaces import Backbone, Runtime
from ditzoo_runtime.eager import Eager
from ditzoo_runtime.onednn import OneDNN
from ditzoo_runtime.packed import available, linear, pack

TOKENS = 512  # of a guided pair of 256 tokens each
LEAST_GAIN = 1.02  # less is within what two measurements differ by
ROUNDS, SECONDS = 9, 0.3


class Auto(Runtime):
    """Packed weights where they are measured to be faster, else the plain modules."""

    def __init__(self) -> None:
        self.chosen: Runtime = Eager()

    def prepare(self, backbone: Backbone) -> Backbone:
        self.chosen = OneDNN() if packed_wins(backbone) else Eager()
        return self.chosen.prepare(backbone)

    @property
    def told(self) -> str:
        return f"auto: {self.chosen.told}"


def packed_wins(backbone: Backbone) -> bool:
    """Say whether packed weights are faster at the widest linear layer of the backbone's blocks; measured once, and remembered."""
    layers = [one for one in backbone.blocks.modules() if type(one) is nn.Linear]
    if not layers or not available(layers[0].weight.device, layers[0].weight.dtype):
        return False
    widest = max(layers, key=lambda layer: layer.in_features)  # what leads out of an MLP
    key = f"{machine()}, {widest.out_features}x{widest.in_features} {widest.weight.dtype}".replace("torch.", "")
    known = remembered()
    if key not in known:
        known[key] = gain(widest.weight.detach(), torch.randn(1, TOKENS, widest.in_features, dtype=widest.weight.dtype))
        remember(known)
    return known[key] >= LEAST_GAIN


def gain(weight: Tensor, x: Tensor) -> float:
    """Return how many times as long F.linear takes as the packed layer, tokens x (1, N, K) and weight (M, K): a median of pairs."""
    packed = pack(weight, x.shape[1])
    ratios: list[float] = []
    begun = time.perf_counter()
    with torch.no_grad():
        while len(ratios) <= ROUNDS and (len(ratios) < 3 or time.perf_counter() - begun < SECONDS):
            plain = _seconds(lambda: F.linear(x, weight))
            ratios.append(plain / _seconds(lambda: linear(x, packed, None)))
    return statistics.median(ratios[1:])  # the first round warms up


def _seconds(work: Callable[[], Tensor]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def machine() -> str:
    """Return what the choice depends on beside the layer: processor, instruction set, threads, version of torch."""
    return f"{processor()} {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def processor() -> str:
    """Return the processor's name as Linux tells it, or its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def memory() -> Path:
    """Return the file that holds what was measured, in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ditzoo" / "runtime.json"


def remembered() -> dict[str, float]:
    """Return the gains that were measured here, by what they depend on; none where the file is absent or damaged."""
    try:
        return {str(key): float(value) for key, value in json.loads(memory().read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def remember(gains: dict[str, float]) -> None:
    """Keep gains for later runs, where the cache can be written."""
    try:
        write_text(memory(), json.dumps(gains, indent=1, sort_keys=True) + "\n")
    except OutputError:
        return
