"""Features of real pictures, kept by the hash of what they are: the pictures' content and the network's weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ditzoo.checkpoints import open_file
from ditzoo.errors import CheckpointError, EvaluationError
from ditzoo.evaluation.kept import Kept
from ditzoo.files import cache_folder as cache_folder  # where other plugins keep things too
from ditzoo.interfaces import Dataset, Features
from ditzoo.specs import DatasetSpec, FeaturesSpec
from ditzoo.weights import save_weights

BATCH = 250
NO_CLASS = -1  # of an item that is a text


def content_sha256(dataset: Dataset) -> str:
    """Return a hash of every picture (as fp32 in [-1, 1]) and what it shows, in order."""
    digest = hashlib.sha256()
    for index in range(len(dataset)):
        item = dataset[index]
        digest.update(item["pixels"].contiguous().numpy().tobytes())
        digest.update(str(item["item"]).encode())
    return digest.hexdigest()


def seen_in(data: DatasetSpec, network: FeaturesSpec, *, pinned: str | None, what: str) -> tuple[Kept, Tensor, str]:
    """Return what a network sees in a dataset, the labels (N,), and the content's hash; from the cache where it is there.

    Raises `EvaluationError` if the content is not what the protocol pins.
    """
    dataset = data.build()
    sha256 = content_sha256(dataset)
    if pinned is not None and sha256 != pinned:
        raise EvaluationError(
            f"{what} '{data.kind}' has the content hash {sha256}, and the protocol says {pinned}; "
            f"it is other data, so figures would not compare"
        )
    features = network.build()
    path = cache_folder() / "features" / f"{sha256[:32]}-{features.sha256[:32]}.safetensors"
    held = _kept(path)
    if held is None:
        held = _see(dataset, features, what)
        save_weights(held, path)
    return Kept.read(held), held["labels"].long(), sha256


def _kept(path: Path) -> dict[str, Tensor] | None:
    if not path.is_file():
        return None
    try:
        return open_file(path).tensors
    except CheckpointError:  # a cache is only a saving: what is damaged is made again
        return None


@torch.no_grad()
def _see(dataset: Dataset, features: Features, what: str) -> dict[str, Tensor]:
    parts, labels = [], []
    for first in tqdm(range(0, len(dataset), BATCH), desc=f"features of the {what}", unit="batch", disable=None):
        items = [dataset[index] for index in range(first, min(first + BATCH, len(dataset)))]
        parts.append(_seen([item["pixels"] for item in items], features))
        labels += [item["item"] if isinstance(item["item"], int) else NO_CLASS for item in items]
    return Kept.cat(parts).table() | {"labels": torch.as_tensor(labels)}


def _seen(pixels: list[Tensor], features: Features) -> Kept:
    """Look at pictures or clips of several sizes, those of one size together; rows are as they came."""
    by_size: dict[torch.Size, list[int]] = {}
    for index, one in enumerate(pixels):
        by_size.setdefault(one.shape, []).append(index)
    looked = Kept.cat([Kept.of(features.see(torch.stack([pixels[index] for index in group]))) for group in by_size.values()])
    return looked.rows(torch.argsort(torch.tensor([index for group in by_size.values() for index in group])))
