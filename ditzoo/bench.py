"""How fast models run here: milliseconds a forward pass beside the library that a model's layout belongs to, as rows of a CSV.

Seconds of two machines do not compare; ratios within one run do. Runs alternate, and medians are told.
"""

from __future__ import annotations

import csv
import gc
import io
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ditzoo.assemble import Model, as_dtype, build, runtime_of
from ditzoo.cards import Figures, figures_of
from ditzoo.files import write_text
from ditzoo.model_spec import ModelSpec
from ditzoo.sources import Found
from ditzoo.zoo import Zoo

COLUMNS = (
    "model",
    "batch",
    "dtype",
    "device",
    "threads",
    "runtime",
    "parameters",
    "gmacs",
    "weights_mb",
    "activations_mb",
    "ms",
    "ms_low",
    "ms_high",
    "images_per_second",
    "gflops",
    "against",
    "against_ms",
    "ratio",
    "machine",
    "torch",
    "ditzoo",
)


def bench(
    found: Found, batches: Sequence[int], *, repeats: int = 7, dtype: str = "float32", device: str = "cpu", against: bool = True
) -> list[dict[str, Any]]:
    """Measure one model with fresh weights at some batch sizes; a row each. `ratio` is their time over ours."""
    spec = found.spec
    figures = figures_of(spec, found.folder)
    model = build(spec).to(device, as_dtype(dtype)).requires_grad_(False)
    model.runtime = runtime_of(spec, found.zoo)
    library, theirs = counterpart(spec, found.zoo) if against else (None, None)
    if theirs is not None:
        theirs.to(device, as_dtype(dtype))
    rows = []
    for batch in tqdm(batches, desc=spec.name, unit="batch", disable=None):
        runs = {"ours": ours(model, batch), **({"theirs": of_theirs(theirs, model, batch)} if theirs is not None else {})}
        rows.append(row(spec, figures, batch, dtype, device, library, timed(runs, repeats, torch.device(device)), model))
    del model, theirs
    gc.collect()
    return rows


def counterpart(spec: ModelSpec, zoo: Zoo) -> tuple[str | None, Any]:
    """Return the name of another library and its network of the same shape with fresh weights; (None, None) if there is none."""
    for layout in zoo.layouts.values():
        network = layout.their_network(spec)
        if network is not None:
            return layout.family, network.eval().requires_grad_(False)
    return None, None


def inputs(model: Model, batch: int) -> tuple[Any, Any, list[Any]]:
    """Return latents (B, C, *S), model times (B,) and prompt items."""
    spec = model.spec
    x = torch.randn(batch, spec.backbone.in_channels, *spec.latent_size(), device=model.device, dtype=model.dtype)
    return x, torch.full((batch,), 500.0, device=model.device), spec.prompt.default(batch)


def ours(model: Model, batch: int) -> Callable[[], Any]:
    x, t, items = inputs(model, batch)
    return lambda: model(x, t, items)


def of_theirs(network: Any, model: Model, batch: int) -> Callable[[], Any]:
    x, t, items = inputs(model, batch)
    labels = torch.as_tensor(items, device=model.device)
    return lambda: network(x, timestep=t, class_labels=labels)


@torch.no_grad()
def timed(runs: dict[str, Callable[[], Any]], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Return the seconds of each run, taken in turn after one of each that does not count."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            begun = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                found[name].append(time.perf_counter() - begun)
    return found


def row(
    spec: ModelSpec,
    figures: Figures,
    batch: int,
    dtype: str,
    device: str,
    library: str | None,
    seconds: dict[str, list[float]],
    model: Model,
) -> dict[str, Any]:
    """Return a row of the CSV."""
    mine = sorted(seconds["ours"])
    median = statistics.median(mine)
    theirs = seconds.get("theirs")
    return {
        "model": spec.name,
        "batch": batch,
        "dtype": dtype,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "threads": torch.get_num_threads(),
        "runtime": model.runtime.told if model.runtime is not None else "",
        "parameters": figures.parameters,
        "gmacs": round(figures.macs / 1e9, 3),
        "weights_mb": round(figures.weight_bytes / 1e6, 1),
        "activations_mb": round(figures.activation_bytes * batch / 1e6, 1),
        "ms": round(median * 1e3, 2),
        "ms_low": round(mine[len(mine) // 4] * 1e3, 2),
        "ms_high": round(mine[-1 - len(mine) // 4] * 1e3, 2),
        "images_per_second": round(batch / median, 3),
        "gflops": round(2 * figures.macs * batch / median / 1e9, 1),
        "against": library or "",
        "against_ms": round(statistics.median(theirs) * 1e3, 2) if theirs else "",
        "ratio": round(statistics.median(b / a for a, b in zip(seconds["ours"], theirs, strict=True)), 3) if theirs else "",
        "machine": platform.machine(),
        "torch": torch.__version__,
        "ditzoo": version("ditzoo"),
    }


def as_csv(rows: Sequence[dict[str, Any]], path: Path | None = None) -> str:
    """Return rows as CSV text, and write it where a path is given."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    if path is not None:
        write_text(path, text.getvalue())
    return text.getvalue()
