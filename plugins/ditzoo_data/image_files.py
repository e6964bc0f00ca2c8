"""The files of an `image-folder`, as a dataset."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from ditzoo.errors import DataError, DataWarning, listed
from ditzoo_data.image_folder import ImageFolderSpec
from ditzoo_data.pictures import UnlikeError, kind_of, read_picture

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


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
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                field = "unlike" if isinstance(error, UnlikeError) else "on_error"
                if getattr(self.spec, field) != "skip":
                    way = "convert or skip" if field == "unlike" and self.spec.unlike == "stop" else "skip"
                    raise DataError(f"cannot use picture {path}: {error}; remove it, or set data.{field}={way}") from error
                warnings.warn(f"the next picture stands in for {path}: {error}", DataWarning, stacklevel=2)
        raise DataError(f"none of the {len(self.files)} pictures in '{self.spec.folder}' can be read")

    def survey(self) -> Iterator[tuple[str, str, str | None]]:
        """Read every file, and yield its path, the kind of picture it holds, and what is wrong with it, if anything is."""
        for path, _ in self.files:
            kind, wrong = "unreadable", None
            try:
                with Image.open(path) as opened:
                    kind = kind_of(opened)
                read_picture(path, self.spec.channels, convert=self.spec.unlike == "convert")
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                wrong = str(error)
            yield str(path), kind, wrong

    def _pixels(self, path: Path, flip: bool) -> Any:
        picture = read_picture(path, self.spec.channels, convert=self.spec.unlike == "convert")
        picture = ImageOps.fit(picture, (self.spec.size, self.spec.size), Image.Resampling.LANCZOS)
        if flip:
            picture = ImageOps.mirror(picture)
        pixels = torch.from_numpy(np.asarray(picture).copy()).float() / 127.5 - 1
        return pixels[None] if self.spec.channels == 1 else pixels.permute(2, 0, 1)
