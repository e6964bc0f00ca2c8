"""Pictures and clips out of tensors, and a sheet of them: pictures in a grid, captions beneath; clips frame beside frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ditzoo.clips import contact_sheet, save_gif
from ditzoo.errors import OutputError
from ditzoo.files import replacing

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

GAP, SMALLEST_CELL = 6, 84
LINE, MOST_LINES = 15, 7  # pixels of a line of a caption


def as_pictures(levels: Tensor) -> list[Any]:
    """Return uint8 levels (B, 3 or 1, H, W) as pictures, and (B, 3 or 1, T, H, W) as lists of frames."""
    from PIL import Image

    if levels.dim() == 5:
        return [as_pictures(clip.transpose(0, 1)) for clip in levels]
    arrays = levels.movedim(1, -1).cpu().numpy()
    return [Image.fromarray(one[..., 0] if one.shape[-1] == 1 else one) for one in arrays]


def grid(pictures: Sequence[Image], captions: Sequence[str], columns: int | None = None) -> Image:
    """Lay pictures out in rows. Small ones are enlarged by a whole factor without smoothing, so pixels stay pixels.

    Captions stand beneath, on as many lines as they need; long ones that every row repeats stand once, above their column.
    """
    from PIL import Image, ImageDraw, ImageFont

    columns = columns or natural_columns(captions)
    factor = max(1, round(SMALLEST_CELL / max(pictures[0].size)))
    width, height = (side * factor for side in pictures[0].size)
    font = ImageFont.load_default(size=12)
    texts = [caption_lines(caption, width, font) for caption in captions]
    tallest = max(map(len, texts))
    headed = tallest > 1 and len(pictures) > columns and all(text == texts[index % columns] for index, text in enumerate(texts))
    room = LINE * tallest + 3 if tallest else 0
    top, beneath = (room, 0) if headed else (0, room)
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, top + rows * (height + beneath + GAP) + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
        x, y = GAP + index % columns * (width + GAP), top + GAP + index // columns * (height + beneath + GAP)
        sheet.paste(picture.convert("RGB").resize((width, height), Image.Resampling.NEAREST), (x, y))
        if headed and index >= columns:
            continue  # its caption stands above the column
        begun = GAP + LINE * (tallest - len(text)) if headed else y + height + 2
        for place, line in enumerate(text):
            pen.text((x + width / 2, begun + LINE * place), line, fill="black", font=font, anchor="ma")
    return sheet


def natural_columns(captions: Sequence[str]) -> int:
    """Return as many columns as there are captions before the first repeats, else the sides of a near square."""
    distinct = len(dict.fromkeys(captions))
    cyclic = all(caption == captions[index % distinct] for index, caption in enumerate(captions))
    return distinct if cyclic and 2 <= distinct <= 12 else math.ceil(math.sqrt(len(captions)))


def save_grid(drawn: Sequence[Any], captions: Sequence[str], path: Path) -> None:
    """Write a grid of pictures, or a contact sheet of clips, as a PNG file."""
    sheet = contact_sheet if isinstance(drawn[0], Sequence) else grid
    try:
        with replacing(path) as aside:
            sheet(drawn, captions).save(aside, format="PNG")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error}") from error


def save_moving_grid(clips: Sequence[Sequence[Image]], captions: Sequence[str], path: Path, fps: float) -> None:
    """Write a GIF in which every clip of a grid plays; shorter ones stay at their last frame."""
    longest = max(map(len, clips))
    save_gif([grid([clip[min(time, len(clip) - 1)] for clip in clips], captions) for time in range(longest)], path, fps)


def caption_lines(caption: str, width: int, font: object) -> list[str]:
    """Break a caption between words into lines of a width; what is more than `MOST_LINES`, and a word too wide, ends in an ellipsis."""
    measure = font.getlength  # type: ignore[attr-defined]
    lines: list[str] = []
    for word in caption.split():
        if lines and measure(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        elif len(lines) < MOST_LINES:
            lines.append(word)
        else:
            lines[-1] += f" {word}"
            break
    return [_fit(line, width, font) for line in lines]


def _fit(caption: str, width: int, font: object) -> str:
    measure = font.getlength  # type: ignore[attr-defined]
    if measure(caption) <= width:
        return caption
    while caption and measure(caption + "…") > width:
        caption = caption[:-1]
    return caption + "…"
