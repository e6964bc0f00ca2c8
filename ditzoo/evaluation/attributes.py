"""Agreement of pictures with what was asked for, attribute by attribute, where a dataset knows them and a network reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ditzoo.evaluation.metrics import bootstrap
from ditzoo.interfaces import Dataset


class Wanted(NamedTuple):
    """The attributes of items, by number, with their names; and groups of items that are told apart."""

    attributes: Tensor  # (N, A)
    values: Mapping[str, Sequence[str]]
    groups: Mapping[str, Tensor]  # (N,) bool


def wanted_of(dataset: Dataset, count: int) -> Wanted | None:
    """Return the attributes of a dataset's first items, or None where it knows none."""
    attributes: Tensor | None = getattr(dataset, "attributes", None)
    if attributes is None:
        return None
    groups: Mapping[str, Tensor] = getattr(dataset, "groups", {})
    values: Mapping[str, Sequence[str]] = dataset.values  # type: ignore[attr-defined]
    return Wanted(attributes[:count], values, {name: rows[:count] for name, rows in groups.items()})


def attribute_agreement(found: Tensor, wanted: Wanted, resamples: int) -> dict[str, Any]:
    """Return the share of attributes (N, A) that were read as they were asked for; by attribute, and by group."""
    right = (found.cpu() == wanted.attributes).double()
    of_picture = right.mean(1)

    def share(rows: Tensor) -> float:
        return float(of_picture[rows].mean())

    return {
        "value": float(of_picture.mean()),
        "interval_95": bootstrap(share, len(right), resamples),
        "by_attribute": {name: round(float(column.mean()), 4) for name, column in zip(wanted.values, right.T, strict=True)},
        "by_group": {name: round(float(of_picture[rows].mean()), 4) for name, rows in wanted.groups.items() if bool(torch.any(rows))},
    }
