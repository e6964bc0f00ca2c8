"""Features of real pictures, kept by the hash of what they are: the pictures' content and the network's weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ditzoo.checkpoints import open_file
from ditzoo.errors import CheckpointError, EvaluationError
from ditzoo.files import cache_folder as cache_folder  # where other plugins keep things too
from ditzoo.interfaces import Dataset, Features, Seen
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


def seen_in(data: DatasetSpec, network: FeaturesSpec, *, pinned: str | None, what: str) -> tuple[Seen, Tensor, str]:
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
        save_weights({name: value for name, value in held.items() if value is not None}, path)
    return Seen(held["features"], held.get("logits"), None, held.get("attributes")), held["labels"].long(), sha256


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
        parts.append(features.see(torch.stack([item["pixels"] for item in items])))
        labels += [item["item"] if isinstance(item["item"], int) else NO_CLASS for item in items]
    found = {"features": torch.cat([part.features for part in parts])}
    for name in ("logits", "attributes"):
        said = [getattr(part, name) for part in parts if getattr(part, name) is not None]
        found |= {name: torch.cat(said)} if said else {}
    return found | {"labels": torch.as_tensor(labels)}
