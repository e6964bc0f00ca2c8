"""Latents mapped from shards: nothing is read before it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ditzoo.checkpoints import open_file
from ditzoo.errors import DataError, listed
from ditzoo.places import file_sha256

if TYPE_CHECKING:
    from ditzoo_data.latents_spec import LatentsSpec


class Latents:
    """A dataset of `{"latents": (C, *S) fp32, "item": label}`; `coded` says that no codec is to touch them."""

    coded = True

    def __init__(self, spec: LatentsSpec) -> None:
        folder, meta = Path(spec.folder).expanduser(), spec.meta
        self.names, self.count, self.shard, self.flip = tuple(meta["classes"]), int(meta["count"]), int(meta["shard"]), spec.flip
        absent = [name for name in meta["shards"] if not (folder / name).is_file()]
        if absent:
            raise DataError(
                f"'{folder}' lacks {len(absent)} of its {len(meta['shards'])} shards: {listed(absent)}; write the latents again"
            )
        if spec.verify:
            changed = [name for name, sha256 in meta["shards"].items() if file_sha256(folder / name) != sha256]
            if changed:
                raise DataError(
                    f"shards of '{folder}' are not what was written: {listed(changed)}; remove these and write the latents again"
                )
        self.shards = [open_file(folder / name).tensors for name in sorted(meta["shards"])]

    def __len__(self) -> int:
        return self.count * (2 if self.flip else 1)

    def __getitem__(self, index: int) -> dict[str, Any]:
        mirrored, place = divmod(index, self.count)
        shard = self.shards[place // self.shard]
        latents = shard["flipped" if mirrored else "latents"][place % self.shard]
        return {"latents": latents.float(), "item": int(shard["items"][place % self.shard])}
