"""One picture file as RGB or grey of 8 bits: what it is, and how everything else becomes that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

PLAIN = {3: frozenset({"RGB", "P", "YCbCr"}), 1: frozenset({"L", "1"})}  # modes that need nothing told, by channels wanted
NAMES = {"1": "black and white", "L": "grey", "P": "palette", "F": "float", "I": "32-bit"}


class UnlikeError(ValueError):
    """A picture of another kind than is wanted; its text says which."""


def kind_of(picture: Image.Image) -> str:
    """Return what a picture is, in a word: RGB, grey, CMYK, 16-bit, RGB with transparency."""
    if picture.mode.startswith("I;16"):
        return "16-bit"
    name = NAMES.get(picture.mode, picture.mode)
    if picture.has_transparency_data:
        return {"RGBA": "RGB", "LA": "grey", "PA": "palette"}.get(picture.mode, name) + " with transparency"
    return name


def read_picture(path: Path, channels: int, *, convert: bool) -> Image.Image:
    """Return the picture of a file, upright, as 8-bit RGB (`channels` 3) or grey (1).

    What is neither is converted, or with `convert` false refused as `UnlikeError`: 16 bits are scaled to 8, CMYK goes to RGB without
    a profile, transparent pixels show white. 32-bit and float pictures have no agreed range and are always refused.
    Raises `OSError` or `ValueError` for a file that cannot be read.
    """
    with Image.open(path) as opened:
        opened.load()
        kind, picture = kind_of(opened), ImageOps.exif_transpose(opened)
    if (picture.mode not in PLAIN[channels] or picture.has_transparency_data) and not convert:
        raise UnlikeError(f"it is {kind} where 8-bit {'RGB' if channels == 3 else 'grey'} is wanted")
    if picture.mode == "F" or (picture.mode == "I" and np.asarray(picture).max() > 0xFFFF):
        raise UnlikeError(f"it is {kind}, whose range is not known")
    if picture.mode.startswith("I"):
        picture = Image.fromarray((np.asarray(picture).astype(np.float32) / 257).round().astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB" if channels == 3 else "L")
