"""Which files hold a model's weights: one, or shards under an index that is believed only as far as it can be. No torch."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from pathlib import Path

from ditzoo.errors import CheckpointError, listed
from ditzoo.layouts import Layout
from ditzoo.model_spec import Weights
from ditzoo.places import Place, inside

INDEX = ".index.json"
SUFFIXES = (".safetensors", f".safetensors{INDEX}", ".bin", f".bin{INDEX}", ".pt", ".pth")


@dataclass(frozen=True)
class WeightFiles:
    """Files of weights by their names in a place; `where` says which file holds a key, if an index tells."""

    place: Place
    names: tuple[str, ...]
    where: dict[str, str] | None = None
    index: str | None = None

    def fetch(self) -> list[Path]:
        """Return the local paths, in the order of `names`, fetching what is not here yet."""
        return self.place.fetch(self.names)

    def __str__(self) -> str:
        return f"{self.index or self.names[0]} of {self.place}"


def find_weights(place: Place, weights: Weights, layout: Layout) -> WeightFiles:
    """Return the files of a model's weights, safetensors before pickles; raise `CheckpointError` naming what was looked for."""
    if weights.file is not None:
        wanted = [weights.file]
    else:
        wanted = [stem + suffix for stem in layout.files for suffix in SUFFIXES]
    # what lies here already is asked first: the commit fixes its content, and a look elsewhere would be a request
    name = next((name for name in wanted if place.here(name)), None) or next((name for name in wanted if place.has(name)), None)
    if name is None:
        raise CheckpointError(f"no weights in {place}: looked for {listed(wanted, limit=6)}; set weights.file if they have another name")
    if not name.endswith(INDEX):
        return WeightFiles(place, (name,))
    return _sharded(place, name)


def _sharded(place: Place, index: str) -> WeightFiles:
    """Read an index of shards: `weight_map` from key to a file beside the index."""
    table = place.read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise CheckpointError(
            f"{index} of {place} has no weight_map from keys to files; it is no index of shards, or damaged: fetch it again"
        )
    folder, suffix = posixpath.dirname(index), index.removesuffix(INDEX).rpartition(".")[2]
    for key, name in table.items():
        if not inside(name) or "/" in name:
            raise CheckpointError(
                f"{index} of {place} puts {key} into '{name}', which is not a plain file beside it; do not trust this checkpoint"
            )
        if not name.endswith(f".{suffix}"):
            raise CheckpointError(f"{index} of {place} puts {key} into '{name}', which is no .{suffix} file; do not trust this checkpoint")
    where = {key: posixpath.join(folder, name) for key, name in table.items()}
    names = tuple(sorted(set(where.values())))
    missing = [name for name in names if not place.here(name) and not place.has(name)]
    if missing:
        raise CheckpointError(
            f"{place} lacks {len(missing)} of the {len(names)} shards that {index} names: {listed(missing)}; {place.cure}"
        )
    return WeightFiles(place, names, where, index)
