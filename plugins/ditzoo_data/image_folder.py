"""`image-folder`: pictures in one folder a class, as most datasets are handed around."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ditzoo.errors import DataError, listed
from ditzoo.specs import DatasetSpec, Positive

if TYPE_CHECKING:
    from ditzoo.interfaces import Dataset

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


class ImageFolderSpec(DatasetSpec):
    """`folder/CLASS/**/picture.png`; classes are the sub-folders in sorted order, or one class without sub-folders.

    Pictures are scaled so that the shorter side is `size`, then cropped at the centre. `channels` is 3 for colour, 1 for
    grey. `on_error` says what becomes of a file that cannot be read: the run stops, or the next picture stands in.
    """

    kind: Literal["image-folder"] = "image-folder"
    folder: str
    size: Positive
    channels: Literal[1, 3] = 3
    flip: bool = False
    on_error: Literal["stop", "skip"] = "stop"

    @property
    def item_size(self) -> tuple[int, ...]:
        return (self.size, self.size)

    @property
    def item_channels(self) -> int:
        return self.channels

    def build(self) -> Dataset:
        return ImageFolder(self)


class ImageFolder:
    """A dataset of `{"pixels": (C, size, size) in [-1, 1], "item": class}`. With `flip` every picture comes a second time, mirrored."""

    def __init__(self, spec: ImageFolderSpec) -> None:
        self.spec, root = spec, Path(spec.folder).expanduser()
        if not root.is_dir():
            raise DataError(f"no folder '{root}'; point data.folder at a folder with one sub-folder a class")
        folders = sorted(path for path in root.iterdir() if path.is_dir())
        self.names = tuple(path.name for path in folders) or (root.name,)
        self.files = [
            (path, label)
            for label, folder in enumerate(folders or [root])
            for path in sorted(folder.rglob("*"))
            if path.suffix.lower() in ENDINGS
        ]
        if not self.files:
            raise DataError(f"no pictures in '{root}' (endings looked for: {listed(sorted(ENDINGS))})")

    def __len__(self) -> int:
        return len(self.files) * (2 if self.spec.flip else 1)

    def __getitem__(self, index: int) -> dict[str, Any]:
        flip, index = index >= len(self.files), index % len(self.files)
        for tried in range(len(self.files)):
            path, label = self.files[(index + tried) % len(self.files)]
            try:
                return {"pixels": self._pixels(path, flip), "item": label}
            except (OSError, ValueError) as error:
                if self.spec.on_error == "stop":
                    raise DataError(f"cannot read picture {path}: {error}; remove it, or set data.on_error=skip") from error
        raise DataError(f"none of the {len(self.files)} pictures in '{self.spec.folder}' can be read")

    def _pixels(self, path: Path, flip: bool) -> Any:
        import numpy as np
        import torch
        from PIL import Image, ImageOps

        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened).convert("L" if self.spec.channels == 1 else "RGB")
        picture = ImageOps.fit(picture, (self.spec.size, self.spec.size), Image.Resampling.LANCZOS)
        if flip:
            picture = ImageOps.mirror(picture)
        pixels = torch.from_numpy(np.asarray(picture).copy()).float() / 127.5 - 1
        return pixels[None] if self.spec.channels == 1 else pixels.permute(2, 0, 1)
