"""Coding a dataset once: latents in shards, written by any number of processes, resumed where they were cut off, checksummed."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ditzoo.assemble import as_dtype
from ditzoo.checkpoints import open_file
from ditzoo.errors import CheckpointError, DataError, OutputError
from ditzoo.files import claim, writable_folder, write_text
from ditzoo.interfaces import Codec, Dataset
from ditzoo.places import file_sha256
from ditzoo.processes import processes
from ditzoo.shares import share
from ditzoo.training.mixing import unmixed
from ditzoo.training.recipe import Recipe
from ditzoo.weights import save_weights

META_FILE, PLAN_FILE, SHARD, BATCH = "latents.json", "plan.json", 2048, 32


def write_latents(recipe: Recipe, out: Path, *, flip: bool = False, dtype: str = "float32", device: str = "cpu") -> dict[str, Any]:
    """Code the pictures of a recipe's data with its model's codec into `out`, and return what was noted of them.

    With `flip` each picture is coded mirrored too. Run again after an interruption, only what is missing is coded. Raises
    `OutputError` for a folder of another codec, dataset or choice.
    """
    if problem := unmixed("data", recipe.data):
        raise DataError(f"{problem} of latents; give data of one size, or train from the pixels")
    dataset, codec = recipe.data.build(), recipe.model.codec.build().open()
    plan = {
        "codec": recipe.model.codec.model_dump(mode="json"),
        "data": recipe.data.model_dump(mode="json"),
        "count": len(dataset),
        "size": list(recipe.data.item_size),
        "channels": recipe.data.item_channels,
        "classes": list(dataset.names),
        "flip": flip,
        "dtype": dtype,
    }
    state = processes()
    if state.is_main_process:
        claim(writable_folder(out) / PLAN_FILE, plan, "other latents", OutputError)
    state.wait_for_everyone()
    starts = list(range(0, len(dataset), SHARD))
    write = partial(_write_shard, dataset, codec, out, flip=flip, dtype=as_dtype(dtype), device=device)
    share(starts, lambda first: _whole(out, first, len(dataset)), lambda: write, what="latents", unit="shard")
    meta = plan | {"shard": SHARD, "shards": {}}
    if state.is_main_process:
        absent = [first for first in starts if not _path(out, first).is_file()]
        if absent:
            raise OutputError(f"{len(absent)} of {len(starts)} shards are missing in '{out}': a process died; run the same command again")
        meta["shards"] = {_path(out, first).name: file_sha256(_path(out, first)) for first in starts}
        write_text(out / META_FILE, json.dumps(meta, indent=1) + "\n")
    return meta


def _path(out: Path, first: int) -> Path:
    return out / f"{first:08d}.safetensors"


def _whole(out: Path, first: int, count: int) -> bool:
    try:
        return len(open_file(_path(out, first)).tensors["items"]) == min(SHARD, count - first)
    except (CheckpointError, KeyError):
        return False


@torch.no_grad()
def _write_shard(dataset: Dataset, codec: Codec, out: Path, first: int, *, flip: bool, dtype: torch.dtype | None, device: str) -> None:
    coded: dict[str, list[Tensor]] = {"latents": [], **({"flipped": []} if flip else {})}
    labels: list[int] = []
    last = min(first + SHARD, len(dataset))
    for lo in range(first, last, BATCH):
        items = [dataset[index] for index in range(lo, min(lo + BATCH, last))]
        if not all(isinstance(item["item"], int) for item in items):
            raise DataError("latents are kept of pictures with class labels; these have texts")
        pixels = torch.stack([item["pixels"] for item in items]).to(device)
        coded["latents"].append(codec.encode(pixels).to("cpu", dtype))
        if flip:
            coded["flipped"].append(codec.encode(pixels.flip(-1)).to("cpu", dtype))
        labels += [item["item"] for item in items]
    save_weights({name: torch.cat(parts) for name, parts in coded.items()} | {"items": torch.tensor(labels)}, _path(out, first))
