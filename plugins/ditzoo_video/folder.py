"""The files of a `video-folder`, as a dataset of clips."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ditzoo.errors import DataError, DataWarning, listed
from ditzoo_video.folder_spec import VideoFolderSpec
from ditzoo_video.reading import UnusableError, clip, length, library

ENDINGS = frozenset({".mp4", ".webm", ".gif", ".mkv", ".mov", ".avi", ".m4v"})


class VideoFolder:
    """Items `{"pixels": (C, T, H, W) in [-1, 1], "item": class or caption}`."""

    def __init__(self, spec: VideoFolderSpec) -> None:
        self.spec, root = spec, Path(spec.folder).expanduser()
        if not root.is_dir():
            raise DataError(f"no folder '{root}'; point data.folder at a folder of videos")
        library()
        folders = sorted(path for path in root.iterdir() if path.is_dir())
        classes = spec.items == "classes"
        self.names = (tuple(path.name for path in folders) or (root.name,)) if classes else ()
        self.files = [
            (path, label)
            for label, folder in enumerate((folders or [root]) if classes else [root])
            for path in sorted(folder.rglob("*"))
            if path.suffix.lower() in ENDINGS
        ]
        if not self.files:
            raise DataError(f"no videos in '{root}' (endings looked for: {listed(sorted(ENDINGS))})")
        self.clips = [(index, 0) for index in range(len(self.files))] if spec.clips == "first" else self._all()

    def _all(self) -> list[tuple[int, int]]:
        """Return (file, first frame) of every clip; a file that tells no length has one, which will say what is wrong."""
        found = []
        for index, (path, _) in enumerate(self.files):
            try:
                whole = length(path, self.spec.fps)[0] // self.spec.frames
            except UnusableError:
                whole = 1
            found += [(index, number * self.spec.frames) for number in range(max(whole, 1))]
        return found

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        for tried in range(len(self.clips)):
            place, first = self.clips[(index + tried) % len(self.clips)]
            path, label = self.files[place]
            try:
                return {"pixels": self._pixels(path, first), "item": label if self.spec.items == "classes" else _caption(path)}
            except (UnusableError, OSError) as error:
                if self.spec.on_error != "skip":
                    raise DataError(f"cannot use video {path}: {error}; remove it, or set data.on_error=skip") from error
                warnings.warn(f"the next clip stands in for {path}: {error}", DataWarning, stacklevel=2)
        raise DataError(f"none of the {len(self.files)} videos in '{self.spec.folder}' gives a clip of {self.spec.frames} frames")

    def survey(self) -> Iterator[tuple[str, str, str | None]]:
        """Read the first clip of every file, and yield its path, what it is, and what is wrong with it, if anything is."""
        for path, _ in self.files:
            kind, wrong = "unreadable", None
            try:
                _, rate = length(path, None)
                kind = f"{path.suffix.lower()[1:]}, {rate:g} frames a second"
                if self.spec.items == "captions":
                    _caption(path)
                self._pixels(path, 0)
            except (UnusableError, OSError) as error:
                wrong = str(error)
            yield str(path), kind, wrong

    def _pixels(self, path: Path, first: int) -> torch.Tensor:
        spec = self.spec
        _, rate = length(path, spec.fps)
        frames = torch.from_numpy(clip(path, first, spec.frames, rate, (spec.height, spec.width), grey=spec.channels == 1))
        pixels = frames.float() / 127.5 - 1
        return pixels[None] if spec.channels == 1 else pixels.permute(3, 0, 1, 2)


def _caption(path: Path) -> str:
    told = path.with_suffix(".txt")
    try:
        return told.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UnusableError(f"its caption {told.name} cannot be read ({error}); write one, or set data.items=classes") from error
