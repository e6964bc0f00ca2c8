"""Draws samples to files: a PNG each, a labelled grid, and a sidecar whose command makes them again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ditzoo.assemble import build, load_spec
from ditzoo.errors import OutputError, SamplingError
from ditzoo.files import replacing, write_text
from ditzoo.grid import save_grid
from ditzoo.model_spec import ModelSpec
from ditzoo.sampling import BATCH, sample
from ditzoo.sources import weights_path
from ditzoo.weights import file_sha256

SIDECAR, GRID = "samples.json", "grid.png"


def draw(
    spec: ModelSpec, folder: Path, items: Sequence[Any], out: Path, *, name: str, settings: Sequence[str], request: dict[str, Any]
) -> dict[str, Any]:
    """Load the model of a checked request, draw its items and write everything into `out`; return the sidecar's content."""
    device, dtype = usable_device(request["device"]), getattr(torch, request["dtype"])
    if request["random_weights"]:
        model = build(spec).to(device, dtype)
    else:
        model = load_spec(spec, folder, dtype=dtype, device=device)
    batch = BATCH if request["batch_size"] is None else request["batch_size"]
    batches = -(-len(items) // max(batch, 1))
    steps = spec.sampling.steps
    with tqdm(total=batches * steps, unit="step", desc=spec.name, disable=None) as bar:
        drawn = sample(
            model,
            class_labels=list(request["labels"]) or None,
            prompt=list(request["prompts"]) or None,
            num_images=request["num_images"],
            num_images_per_prompt=request["num_images_per_prompt"],
            seed=request["seed"],
            batch_size=batch,
            callback_on_step_end=lambda step, t, x: bar.update(),
        )
    files = [f"{index:05d}.png" for index in range(len(items))]
    try:
        for file, picture in zip(files, drawn.images, strict=True):
            with replacing(out / file) as aside:
                picture.save(aside, format="PNG")
    except OSError as error:
        raise OutputError(f"cannot write pictures into '{out}': {error}") from error
    save_grid(drawn.images, drawn.captions, out / GRID)
    report = {
        "command": command_line(name, settings, request, out),
        "grid": str(out / GRID),
        "samples": [
            {"file": file, "item": item, "caption": caption, "seed": request["seed"], "index": index}
            for index, (file, item, caption) in enumerate(zip(files, drawn.items, drawn.captions, strict=True))
        ],
        "spec": spec.model_dump(mode="json", exclude={"card"}),
        "weights_sha256": None if request["random_weights"] else file_sha256(weights_path(spec, folder)),
        "versions": {package: version(package) for package in ("ditzoo", "torch")},
        "spent": {"block_evaluations": drawn.ledger.block_evals, "seconds": round(drawn.ledger.seconds, 3)},
    }
    write_text(out / SIDECAR, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    return report


def command_line(name: str, settings: Sequence[str], request: dict[str, Any], out: Path) -> str:
    """Return the command that makes the same pictures again."""
    words = ["ditzoo", "sample", name]
    for setting in settings:
        words += ["--set", setting]
    for option, value in request.items():
        flag = "--" + {"labels": "label", "prompts": "prompt"}.get(option, option).replace("_", "-")
        for one in value if isinstance(value, tuple) else (value,):
            if one is True:
                words.append(flag)
            elif one not in (None, False):
                words += [flag, str(one)]
    return shlex.join([*words, "--out", str(out)])


def usable_device(name: str | None) -> torch.device:
    """Return a device that works here; raise `SamplingError` for one that does not."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        cause = str(error).splitlines()[0]
        raise SamplingError(f"device '{name}' cannot be used here ({cause}); leave --device out to have one chosen") from error
