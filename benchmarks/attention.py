"""What a longer clip costs: time and memory of the video backbone at 4 times the tokens, under each pattern of attention.

    python benchmarks/attention.py                                  # DiT-S's width, 4 blocks, 2,048 and 8,192 tokens
    python benchmarks/attention.py --grid 8 16 16 --depth 12 --rounds 9

Tokens are made more by frames (x4) and by area (x4), one forward pass of one clip each. Times are taken in turns in one process, ratios
are medians over rounds. Memory is what the pass adds at its peak to what the process has (VmHWM after VmRSS, of Linux), each pass in a
process of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ditzoo_dynamic.timing import interleaved, ratios

from ditzoo.assemble import build
from ditzoo.model_spec import ModelSpec
from ditzoo.zoo import Zoo

PATTERNS = {
    "factorised": {"kind": "factorised"},
    "windowed": {"kind": "windowed"},
    "joint": {"kind": "joint"},
}


def spec_of(pattern: str, grid: Sequence[int], depth: int) -> ModelSpec:
    backbone = {"kind": "video-dit", "width": 384, "depth": depth, "heads": 6, "in_channels": 4, "attention": PATTERNS[pattern]}
    size = [grid[0], 2 * grid[1], 2 * grid[2]]  # its patch is (1, 2, 2)
    told: dict[str, Any] = {
        "name": pattern,
        "backbone": backbone | {"input_size": size},
        "conditioning": "adaln-zero",
        "prompt": {"kind": "label", "classes": 10},
        "schedule": {"kind": "flow", "prediction": "velocity"},
        "sampler": "euler",
        "codec": {"kind": "pixels", "channels": 4},
    }
    return Zoo.installed().validate(ModelSpec, told, source=pattern)


def forward(pattern: str, grid: Sequence[int], depth: int) -> Callable[[], Any]:
    """Return a pass of one clip whose tokens are `grid` (frames, rows, columns), with random weights."""
    spec = spec_of(pattern, grid, depth)
    model = build(spec).requires_grad_(False)
    x, t, items = torch.randn(1, 4, *spec.latent_size()), torch.full((1,), 0.5), spec.prompt.default(1)
    return lambda: model(x, t, items)


def told(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def memory(pattern: str, grid: Sequence[int], depth: int) -> int:
    """Return the bytes that a pass adds at its peak; call it in a process of its own."""
    look = forward(pattern, grid, depth)
    forward(pattern, (1, 2, 2), depth)()  # what torch sets up once is there
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before = told("VmRSS")
    look()
    return told("VmHWM") - before


def apart(pattern: str, grid: Sequence[int], depth: int) -> int:
    """Return `memory` of a process of its own."""
    words = [sys.executable, __file__, "--memory", pattern, "--depth", str(depth), "--grid", *map(str, grid)]
    return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", type=int, nargs=3, default=(8, 16, 16), help="tokens by frames, rows, columns")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", choices=PATTERNS, help=argparse.SUPPRESS)
    words = parser.parse_args()
    frames, rows, columns = words.grid
    if words.memory:
        print(memory(words.memory, words.grid, words.depth))
        return
    grids = {"": (frames, rows, columns), "x4 frames": (4 * frames, rows, columns), "x4 area": (frames, 2 * rows, 2 * columns)}
    print("attention | tokens | time | 95 % interval | memory, MB | memory")
    for pattern in PATTERNS:
        looks = [forward(pattern, grid, words.depth) for grid in grids.values()]
        took = ratios(interleaved([partial(look) for look in looks], words.rounds), 0)
        held = [apart(pattern, grid, words.depth) for grid in grids.values()]
        for name, grid, time, peak in zip(grids, grids.values(), took, held, strict=True):
            count = grid[0] * grid[1] * grid[2]
            spread = f"{time.low:.2f} to {time.high:.2f}"
            share = f"x{peak / held[0]:.2f}"
            print(f"{pattern} | {count:,} {name} | x{time.median:.2f} | {spread} | {peak / 1e6:.0f} | {share}", flush=True)


if __name__ == "__main__":
    main()
