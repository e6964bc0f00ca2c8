"""Frames out of one video file, by the time at which they are shown; needs PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ditzoo.errors import DataError

QUARTERS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


class UnusableError(ValueError):
    """A file that gives no such clip; its text says why."""


def library() -> Any:
    """Import PyAV; raise `DataError` that says how to get it."""
    try:
        import av
    except ModuleNotFoundError as error:
        raise DataError("reading video needs PyAV, which is not installed: pip install 'ditzoo[video]'") from error
    return av


def length(path: Path, fps: float | None) -> tuple[int, float]:
    """Return how many frames a file has at `fps` a second, as its header tells it, and that rate; its own where None."""
    with _opened(path) as container:
        stream = _pictures_of(container)
        rate = fps or float(stream.average_rate or stream.guessed_rate or 0)
        if rate <= 0:
            raise UnusableError("it does not tell its frame rate; set data.fps")
        if stream.duration is not None and stream.time_base is not None:
            seconds = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            seconds = container.duration / library().time_base
        else:
            seconds = stream.frames / rate
        return max(round(seconds * rate), 1), rate


def clip(path: Path, first: int, count: int, rate: float, size: tuple[int, int], *, grey: bool) -> np.ndarray:
    """Return frames [first, first + count) at `rate` a second, uint8 (count, H, W) or (count, H, W, 3).

    Each is the one that is shown at its time. Raises `UnusableError` if the file has too few, or damaged ones.
    """
    taken: list[np.ndarray] = []
    for until, frame in _shown(path):
        while len(taken) < count and (first + len(taken)) / rate < until - 1e-3 / rate:  # rounded time stamps do not decide
            taken.append(_fitted(frame, size, grey=grey))
        if len(taken) == count:
            return np.stack(taken)
    raise UnusableError(f"it shows {first + len(taken)} frames at {rate:g} a second, and {first + count} are needed")


def _shown(path: Path) -> Iterator[tuple[float, Any]]:
    """Yield (when the next one is shown, in seconds since the first, frame); the last is shown as long as one is on average."""
    av = library()
    with _opened(path) as container:
        stream = _pictures_of(container)
        start, last, count = 0.0, None, 0
        try:
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise UnusableError(f"frame {count} is damaged")
                time = frame.time if frame.time is not None else count / float(stream.average_rate or 1)
                if last is None:
                    start = time
                else:
                    yield time - start, last
                last, count = frame, count + 1
        except av.FFmpegError as error:
            raise UnusableError(f"it ends in error after {count} frames ({error.strerror})") from error
        if last is not None:
            yield time - start + float(1 / (stream.average_rate or 1)), last


def _fitted(frame: Any, size: tuple[int, int], *, grey: bool) -> np.ndarray:
    picture = frame.to_image()
    turn = frame.rotation % 360
    if turn in QUARTERS:
        picture = picture.transpose(QUARTERS[turn])
    picture = ImageOps.fit(picture.convert("L" if grey else "RGB"), size[::-1], Image.Resampling.LANCZOS)
    return np.asarray(picture)


def _opened(path: Path) -> Any:
    av = library()
    try:
        return av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise UnusableError(f"it cannot be read as video ({getattr(error, 'strerror', None) or error})") from error


def _pictures_of(container: Any) -> Any:
    if not container.streams.video:
        raise UnusableError("it has sound alone and no pictures")
    return container.streams.video[0]
