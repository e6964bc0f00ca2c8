"""Draws samples to files: a PNG or a clip each, a labelled grid, and a sidecar whose command makes them again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ditzoo.assemble import Model, build, load_found, runtime_of
from ditzoo.clips import write_each
from ditzoo.errors import SamplingError
from ditzoo.files import write_text
from ditzoo.grid import save_grid, save_moving_grid
from ditzoo.hub_errors import Access
from ditzoo.launched import speaks
from ditzoo.lora import fetched
from ditzoo.places import file_sha256
from ditzoo.request import adjusted
from ditzoo.room import check_room
from ditzoo.sampling import BATCH
from ditzoo.sources import Found
from ditzoo.windows import stretches

SIDECAR, GRID, MOVING_GRID = "samples.json", "grid.png", "grid.gif"
TEXTS = ("prompt_2", "prompt_3", "max_sequence_length", "negative_prompt_2", "negative_prompt_3")


def draw(
    found: Found,
    items: Sequence[Any],
    out: Path,
    *,
    settings: Sequence[str] = (),
    request: dict[str, Any],
    known: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Load the model of a checked request, draw its items, around `known` frames, and write everything into `out`.

    Returns the sidecar's content. Of several processes under a launcher all draw, as a runtime may have them do together, and the first
    alone writes; the others return nothing.
    """
    spec = found.spec
    device, dtype = usable_device(request["device"]), getattr(torch, request["dtype"])
    batch = BATCH if request["batch_size"] is None else request["batch_size"]
    if not request.get("force"):
        at_once = spec if request.get("window") is None else adjusted(spec, num_frames=request["window"])
        check_room(at_once, min(max(batch, 1), len(items)), device, dtype, weights=True)
    if request["random_weights"]:
        model = build(spec).to(device, dtype).requires_grad_(False)
        model.runtime = runtime_of(spec, found.zoo)
    else:
        model = load_found(found, dtype=dtype, device=device)
    texts: dict[str, Any] = {name: request.get(name) for name in TEXTS}
    loras = [added(model, one) for one in request.get("loras", ())]
    window = {name: request[name] for name in ("window", "overlap") if request.get(name) is not None}
    looks = -(-len(items) // max(batch, 1)) * (len(stretches(spec, **window)) if window else 1)
    with tqdm(total=looks * spec.sampling.steps, unit="step", desc=spec.name, disable=None if speaks() else True) as bar:
        drawn = model.sample(
            **window,
            class_labels=list(request["labels"]) or None,
            prompt=list(request["prompts"]) or None,
            num_images=request["num_images"],
            num_images_per_prompt=request["num_images_per_prompt"],
            negative_class_labels=list(request.get("negative_labels", ())) or None,
            negative_prompt=list(request.get("negative_prompts", ())) or None,
            **texts,
            **(known or {}),
            seed=request["seed"],
            batch_size=batch,
            force=True,  # it was looked at above
            callback_on_step_end=lambda step, t, x: bar.update(),
        )
    if not speaks():
        return {}
    files = write_each(drawn.images, out, request.get("format"), spec.sampling.fps)
    save_grid(drawn.images, drawn.captions, out / GRID)
    if isinstance(drawn.images[0], list):
        save_moving_grid(drawn.images, drawn.captions, out / MOVING_GRID, spec.sampling.fps)
    report = {
        "command": command_line(found.name, settings, request, out),
        "grid": str(out / GRID),
        "samples": [
            {"file": file, "item": item, "caption": caption, "seed": request["seed"], "index": index}
            for index, (file, item, caption) in enumerate(zip(files, drawn.items, drawn.captions, strict=True))
        ],
        "spec": spec.model_dump(mode="json", exclude={"card"}),
        "weights": None if request["random_weights"] else provenance(found),
        "loras": loras,
        "versions": {package: version(package) for package in ("ditzoo", "torch")},
        "spent": {"block_evaluations": drawn.ledger.block_evals, "seconds": round(drawn.ledger.seconds, 3)},
        "runtime": model.runtime.told if model.runtime is not None else None,
    }
    write_text(out / SIDECAR, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    return report


def added(model: Model, source: str) -> dict[str, Any]:
    """Load a LoRA, given as SOURCE or SOURCE=SCALE, into a model; return what was loaded."""
    place, _, scale = source.rpartition("=") if "=" in source else (source, "", "1")
    try:
        weight = float(scale)
    except ValueError as error:
        raise SamplingError(f"--lora is SOURCE or SOURCE=SCALE, and '{scale}' is no number") from error
    path = fetched(place, None, None, Access())
    model.load_lora_weights(path, scale=weight)
    return {"source": place, "scale": weight, "sha256": file_sha256(path)}


def provenance(found: Found) -> dict[str, Any]:
    """Return where weights came from, and the hash of each file; one that the spec states was checked at load."""
    stated = found.spec.weights.sha256 if found.spec.weights else None
    return {"place": str(found.place), "sha256": {name: stated or found.place.sha256(name) for name in found.weights().names}}


def command_line(name: str, settings: Sequence[str], request: dict[str, Any], out: Path) -> str:
    """Return the command that makes the same pictures again."""
    words = ["ditzoo", "sample", name]
    for setting in settings:
        words += ["--set", setting]
    for option, value in request.items():
        flag = "--" + (option[:-1] if option.endswith(("labels", "prompts", "loras")) else option).replace("_", "-")
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
