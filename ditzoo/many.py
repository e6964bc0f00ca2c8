"""Many samples, in shards: any number of processes draw the same pictures, and a run that was cut off goes on where it was.

Picture i depends on (seed, i) alone, and shards and batches are the plan's, which the first process writes; so they hold the same bytes
however many processes draw them.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ditzoo.assemble import Model, build, load_found, runtime_of
from ditzoo.batching import best_batch, most_that_fit
from ditzoo.denoiser import Ledger
from ditzoo.errors import OutputError
from ditzoo.files import claim, replacing, writable_folder, write_text
from ditzoo.locks import spec_sha256
from ditzoo.processes import processes
from ditzoo.request import Steering
from ditzoo.sampling import denoiser_of, sample
from ditzoo.shares import share
from ditzoo.sources import Found

PLAN_FILE, BATCH_FILE, INDEX_FILE = "plan.json", "batch.json", "shards.json"


@dataclass(frozen=True)
class Many:
    """What is asked for: `count` pictures of a checked spec in shards of `shard`, items taken in turn; batch None is measured.

    `more` are further arguments of `sample`.
    """

    found: Found
    items: Sequence[Any]
    count: int
    seed: int = 0
    shard: int = 1000
    form: str = "npz"
    batch: int | None = None
    dtype: str = "float32"
    device: str | None = None
    random_weights: bool = False
    more: Mapping[str, Any] = field(default_factory=dict)

    def draw(self, out: Path) -> dict[str, Any]:
        """Draw what is missing in the folder `out`; return its index (that of the first process; others return {})."""
        state = processes()
        device = torch.device(self.device) if self.device is not None else state.device
        if state.is_main_process:
            claim(writable_folder(out) / PLAN_FILE, self.plan(), "other samples", OutputError)
        state.wait_for_everyone()
        write, ending = FORMS[self.form]

        def path(first: int) -> Path:
            return out / f"{first // self.shard:05d}{ending}"

        def begin() -> Callable[[int], None]:
            model = self.model(device).prepare()
            batch = self.settled(model, out, state.num_processes)

            def do(first: int) -> None:
                count = min(self.shard, self.count - first)
                items = list(islice(cycle(self.items), first % len(self.items), first % len(self.items) + count))
                drawn = sample(model, items=items, seed=self.seed, first_index=first, batch_size=batch, output_type="pt", **self.more)
                levels = (drawn.images.cpu() * 255).round().to(torch.uint8)
                write(path(first), first, levels, drawn.items, drawn.captions)

            return do

        starts = range(0, self.count, self.shard)
        share(starts, lambda first: path(first).is_file(), begin, what=f"samples of {self.found.spec.name}", unit="shard")
        if not state.is_main_process:
            return {}
        absent = [path(first).name for first in starts if not path(first).is_file()]
        if absent:
            raise OutputError(f"{len(absent)} of {len(starts)} shards are missing in '{out}': a process died; run the same command again")
        index = self.plan() | {"shards": {path(first).name: min(self.shard, self.count - first) for first in starts}}
        write_text(out / INDEX_FILE, json.dumps(index, indent=1) + "\n")
        return index

    def plan(self) -> dict[str, Any]:
        """Return what decides the pictures and how they lie in shards."""
        weights = None
        if not self.random_weights:
            files = self.found.weights()
            files.fetch()
            weights = {name: self.found.place.sha256(name) for name in files.names}
        return {
            "model": self.found.name,
            "spec": spec_sha256(self.found.spec),
            "weights": weights,
            "items": hashlib.sha256(json.dumps(list(self.items)).encode()).hexdigest(),
            "count": self.count,
            "seed": self.seed,
            "shard": self.shard,
            "form": self.form,
            "dtype": self.dtype,
            "more": dict(self.more),
        }

    def model(self, device: torch.device) -> Model:
        """Return the model, loaded or with random weights."""
        if not self.random_weights:
            return load_found(self.found, dtype=self.dtype, device=device)
        model = build(self.found.spec).to(device, getattr(torch, self.dtype)).requires_grad_(False)
        model.runtime = runtime_of(self.found.spec, self.found.zoo)
        return model

    def settled(self, model: Model, out: Path, processes: int) -> int:
        """Return the batch size: what the folder was begun with, what is asked for, or what is measured to be fast."""
        path = out / BATCH_FILE
        if path.is_file():
            return int(json.loads(path.read_text(encoding="utf-8"))["batch"])
        batch = self.batch or best_batch(
            lambda rows: _look(model, rows), min(most_that_fit(model.spec, model.device, processes), self.shard)
        )
        write_text(path, json.dumps({"batch": batch, "runtime": model.runtime.told if model.runtime is not None else None}) + "\n")
        return batch


@torch.no_grad()
def _look(model: Model, rows: int) -> object:
    """Look once at so many pictures at the first time, guided as the spec says."""
    spec = model.spec
    x = torch.zeros(rows, spec.backbone.in_channels, *spec.latent_size(), device=model.device, dtype=model.dtype)
    denoiser = spec.sampler.build().prepare(denoiser_of(model, spec, spec.prompt.default(rows), Ledger(), Steering()))
    return denoiser(x, denoiser.schedule.times(spec.sampling.steps)[0])


def _npz(path: Path, first: int, levels: Tensor, items: Sequence[Any], captions: Sequence[str]) -> None:
    """Write one file of `arr_0` (N, H, W, C) uint8, as evaluations of ImageNet samples read it, and `labels` where items are classes."""
    arrays: dict[str, Any] = {"arr_0": levels.movedim(1, -1).numpy()}
    if all(isinstance(item, int) for item in items):
        arrays["labels"] = np.asarray(items)
    with replacing(path) as aside, aside.open("wb") as file:
        np.savez(file, **arrays)


def _tar(path: Path, first: int, levels: Tensor, items: Sequence[Any], captions: Sequence[str]) -> None:
    """Write a tar of NNNNNNNN.png and NNNNNNNN.json, as webdataset reads it."""
    with replacing(path) as aside, tarfile.open(aside, "w") as archive:
        for index, (picture, item, caption) in enumerate(zip(levels, items, captions, strict=True), start=first):
            said = {"index": index, "item": item, "caption": caption}
            for ending, content in (("png", _encoded(picture)), ("json", json.dumps(said).encode())):
                entry = tarfile.TarInfo(f"{index:08d}.{ending}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))


def _folder(path: Path, first: int, levels: Tensor, items: Sequence[Any], captions: Sequence[str]) -> None:
    """Write NNNNNNNN.png beside the shard's list of what they show, which comes last and makes the shard whole."""
    for index, picture in enumerate(levels, start=first):
        with replacing(path.parent / f"{index:08d}.png") as aside:
            aside.write_bytes(_encoded(picture))
    said = [{"index": index, "item": item, "caption": word} for index, (item, word) in enumerate(zip(items, captions, strict=True), first)]
    write_text(path, json.dumps(said) + "\n")


def _encoded(picture: Tensor) -> bytes:
    from PIL import Image

    array = picture.movedim(0, -1).numpy()
    content = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(content, format="PNG")
    return content.getvalue()


Write = Callable[[Path, int, Tensor, Sequence[Any], Sequence[str]], None]
FORMS: dict[str, tuple[Write, str]] = {"npz": (_npz, ".npz"), "webdataset": (_tar, ".tar"), "png": (_folder, ".json")}
