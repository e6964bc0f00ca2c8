"""The runtime that is chosen by measuring, on this machine: the ways to compute an MLP as wide as the model's and attention of its heads,
and whether rows are shared out among cores.

What was measured is kept in a file by machine, threads, version of torch and size, so processes and later runs choose alike.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditzoo.errors import OutputError
from ditzoo.files import cache_folder, write_text
from ditzoo.interfaces import Backbone, Runtime
from ditzoo.layers import Attention, Mlp
from ditzoo.machine import processor
from ditzoo.slices import Slicing
from ditzoo_runtime.eager import Eager
from ditzoo_runtime.fused import Way, available, fused, written_out
from ditzoo_runtime.onednn import FewerOperations
from ditzoo_runtime.rows import ByRows, in_parts, least_rows

WAYS = {"fused": Way(), "onednn": Way(packed=True), "onednn, gelu within": Way(packed=True, gelu_within=True)}
Layer = TypeVar("Layer", bound=nn.Module)
PAIR, TOKENS = 2, 256  # of a guided pair
FEWER = 64  # tokens of a row where many cores have one each
DEEP, ENOUGH = 8, 3e9  # blocks that rows are shared out for, or as many as have so many multiply-adds: threads take a while to begin
LEAST_GAIN = 1.03  # less is within what two measurements differ by
ROUNDS, SECONDS = 9, 0.4
REST = 0.01  # seconds in which the threads of the turn before stop waiting for more


class Auto(Runtime):
    """The fastest of the plain modules and `WAYS`, with attention written out or not, on all rows together or shared out."""

    def __init__(self) -> None:
        self.chosen: Runtime = Eager()

    def prepare(self, backbone: Backbone) -> Backbone:
        way = choice(backbone)
        self.chosen = Eager() if way is None else FewerOperations(way)
        if apart(backbone, way):
            self.chosen = ByRows(self.chosen)
        return self.chosen.prepare(backbone)

    @property
    def told(self) -> str:
        return f"auto: {self.chosen.told}"


def choice(backbone: Backbone) -> Way | None:
    """Return the fastest way to compute a backbone's layers, measured once and remembered; None where the plain modules are."""
    mlp = _mlp(backbone)
    if mlp is None:
        return None
    width, hidden, dtype = _size(mlp)
    name = _fastest(f"MLP {width}-{hidden}", dtype, lambda: gains(width, hidden, dtype))
    way = WAYS.get(name)
    attention = _attention(backbone)
    if attention is not None:
        heads, size = attention.heads, attention.q.out_features // attention.heads
        if _fastest(f"attention {heads}x{size}", dtype, lambda: scores_gain(heads, size, dtype)):
            return replace(way or Way(), scores=True)
    return way


def apart(backbone: Backbone, way: Way | None) -> bool:
    """Say whether it is faster for each core to have rows of its own, measured once and remembered."""
    mlp, cores = _mlp(backbone), torch.get_num_threads()
    if mlp is None or cores < 2:
        return False
    width, hidden, dtype = _size(mlp)
    attention = _attention(backbone)
    heads = 1 if attention is None else attention.heads
    return bool(_fastest(f"rows {width}-{hidden}", dtype, lambda: rows_gain(width, hidden, heads, dtype, way or Way())))


def _mlp(backbone: Backbone) -> Mlp | None:
    """Return an MLP of the blocks that is as this package knows it, on a CPU."""
    found = (one for one in _layers(backbone, Mlp) if type(one.fc1) is nn.Linear and one.fc1.weight.device.type == "cpu")
    return next(found, None)


def _size(mlp: Mlp) -> tuple[int, int, torch.dtype]:
    return mlp.fc1.in_features, mlp.fc1.out_features, mlp.fc1.weight.dtype


def _attention(backbone: Backbone) -> Attention | None:
    return next(_layers(backbone, Attention), None)


def _layers(backbone: Backbone, cls: type[Layer]) -> Iterator[Layer]:
    """Yield the layers of the blocks that are of a class that has faster ways, or run as smaller layers of it."""
    for one in backbone.blocks.modules():
        if isinstance(one, cls) and (type(one) is cls or isinstance(one, Slicing)):
            yield one


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


def rows_gain(width: int, hidden: int, heads: int, dtype: torch.dtype, way: Way) -> dict[str, float]:
    """Return how many times as long some blocks of attention and an MLP take for all rows together as for each core its own.

    There are as few rows as are shared out: with more of them there is more to gain.
    """
    cores = torch.get_num_threads()
    tokens = max(FEWER, PAIR * TOKENS // cores)
    each = least_rows(tokens, width)
    blocks = max(1, min(DEEP, int(ENOUGH / (cores * each * tokens * width * (4 * width + 2 * hidden)))))
    with torch.random.fork_rng(devices=[]):
        attention, mlp = (fused(one.to(dtype), way) for one in (Attention(width, heads), Mlp(width, hidden)))
        x = torch.randn(cores * each, tokens, width, dtype=dtype)

    def run(rows: Tensor) -> Tensor:
        for _ in range(blocks):
            rows = mlp(attention(rows))
        return rows

    return _in_turns({"": lambda: run(x), "rows": lambda: torch.cat(in_parts(run, x.split(each)))}, seconds=1.0, rest=REST)


@torch.no_grad()
def _in_turns(ways: Mapping[str, Callable[[], Any]], *, seconds: float = SECONDS, rest: float = 0.0) -> dict[str, float]:
    """Return how many times as long "" takes as each other way.

    All take turns, and the least of the rounds is compared: what else the machine does only adds to a time.
    """
    took: dict[str, list[float]] = {name: [] for name in ways}
    begun = time.perf_counter()
    while len(took[""]) <= ROUNDS and (len(took[""]) < 3 or time.perf_counter() - begun < seconds):
        for name, way in ways.items():
            time.sleep(rest)
            start = time.perf_counter()
            way()
            took[name].append(time.perf_counter() - start)
    least = {name: min(found[1:]) for name, found in took.items()}  # the first warms up
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
