"""A look at every item of a dataset before a run: how many of which class and kind there are, and which cannot be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from ditzoo.errors import DataError
from ditzoo.interfaces import Dataset
from ditzoo.specs import shape


def survey(dataset: Dataset) -> dict[str, Any]:
    """Return `items`, `kinds` (how many of each) and `unusable` (what and why).

    A dataset may have a method `survey()` of its own, that yields (name, kind, what is wrong or None) for each of its files.
    """
    kinds: Counter[str] = Counter()
    unusable = []
    own = getattr(dataset, "survey", None)
    for name, kind, wrong in tqdm(own() if own else _read(dataset), desc="reading", unit="item", disable=None):
        kinds[kind] += 1
        if wrong is not None:
            unusable.append({"item": name, "why": wrong})
    return {"items": len(dataset), "classes": list(dataset.names), "kinds": dict(kinds.most_common()), "unusable": unusable}


def _read(dataset: Dataset) -> Iterator[tuple[str, str, str | None]]:
    for index in range(len(dataset)):
        try:
            item = dataset[index]
        except DataError as error:
            yield str(index), "unreadable", str(error)
        else:
            kind = "latents" if "latents" in item else "pixels"
            yield str(index), f"{shape(item[kind].shape)} {kind}", None
