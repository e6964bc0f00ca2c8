"""A grid of pictures, each with its caption beneath."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ditzoo.errors import OutputError
from ditzoo.files import replacing

if TYPE_CHECKING:
    from PIL.Image import Image

GAP, SMALLEST_CELL = 6, 84


def grid(pictures: Sequence[Image], captions: Sequence[str], columns: int | None = None) -> Image:
    """Lay pictures out in rows. Small ones are enlarged by a whole factor without smoothing, so pixels stay pixels."""
    from PIL import Image, ImageDraw, ImageFont

    columns = columns or natural_columns(captions)
    factor = max(1, round(SMALLEST_CELL / max(pictures[0].size)))
    width, height = (side * factor for side in pictures[0].size)
    font = ImageFont.load_default(size=12)
    line = 18 if any(captions) else 0
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + line + GAP) + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = GAP + index % columns * (width + GAP), GAP + index // columns * (height + line + GAP)
        sheet.paste(picture.convert("RGB").resize((width, height), Image.Resampling.NEAREST), (x, y))
        if line:
            pen.text((x + width / 2, y + height + 2), _fit(caption, width, font), fill="black", font=font, anchor="ma")
    return sheet


def natural_columns(captions: Sequence[str]) -> int:
    """Return as many columns as there are captions before the first repeats, else the sides of a near square."""
    distinct = len(dict.fromkeys(captions))
    cyclic = all(caption == captions[index % distinct] for index, caption in enumerate(captions))
    return distinct if cyclic and 2 <= distinct <= 12 else math.ceil(math.sqrt(len(captions)))


def save_grid(pictures: Sequence[Image], captions: Sequence[str], path: Path) -> None:
    """Write the grid as a PNG file."""
    try:
        with replacing(path) as aside:
            grid(pictures, captions).save(aside, format="PNG")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error}") from error


def _fit(caption: str, width: int, font: object) -> str:
    measure = font.getlength  # type: ignore[attr-defined]
    if measure(caption) <= width:
        return caption
    while caption and measure(caption + "…") > width:
        caption = caption[:-1]
    return caption + "…"
