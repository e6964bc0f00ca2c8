"""The spec of a dataset of latents that `ditzoo latents` has written. It knows of its folder what stands in latents.json."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

from ditzoo.specs import DatasetSpec

if TYPE_CHECKING:
    from ditzoo.interfaces import Dataset

META_FILE = "latents.json"


class LatentsSpec(DatasetSpec):
    """Latents with labels, coded once. `flip` gives the mirrored ones too, as further items, if they were written.

    `verify` reads every shard when the dataset is opened and holds it to its checksum.
    """

    kind: Literal["latents"] = "latents"
    folder: str
    flip: bool = False
    verify: bool = False

    @cached_property
    def meta(self) -> dict[str, Any]:
        """What was noted when the latents were written."""
        path = Path(self.folder).expanduser() / META_FILE
        try:
            data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ValueError(
                f"no {path}: the folder holds no latents, or not all of them; run 'ditzoo latents RECIPE --out DIR'"
            ) from error
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read {path}: {error}") from error
        return data

    @model_validator(mode="after")
    def _written(self) -> LatentsSpec:
        if self.flip and not self.meta["flip"]:
            raise ValueError(f"flip=true, and '{self.folder}' was written without mirrored pictures; write it with --flip, or leave it out")
        return self

    @property
    def coded_by(self) -> dict[str, Any]:
        return dict(self.meta["codec"])

    @property
    def item_size(self) -> tuple[int, ...]:
        return tuple(self.meta["size"])

    @property
    def item_channels(self) -> int:
        return int(self.meta["channels"])

    @property
    def item_classes(self) -> int | None:
        return len(self.meta["classes"]) or None

    def build(self) -> Dataset:
        from ditzoo_data.shards import Latents

        return Latents(self)
