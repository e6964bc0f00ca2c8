"""Pictures and clips as files: PNG; clips as GIF, MP4, frames as PNG files, and a contact sheet that shows every frame at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ditzoo.errors import OutputError
from ditzoo.files import replacing

if TYPE_CHECKING:
    from PIL.Image import Image

SMALLEST = 112  # pixels: smaller clips are enlarged by a whole factor, so that one can see them
Clip = Sequence["Image"]


def enlarged(clip: Clip) -> list[Image]:
    """Return the frames in colour, small ones enlarged by a whole factor without smoothing, so that pixels stay pixels."""
    from PIL import Image

    factor = max(1, -(-SMALLEST // max(clip[0].size)))
    width, height = (side * factor for side in clip[0].size)
    return [frame.convert("RGB").resize((width, height), Image.Resampling.NEAREST) for frame in clip]


def save_gif(clip: Clip, path: Path, fps: float) -> None:
    """Write a GIF that plays for ever. Its frames last whole hundredths of a second, as the format has them."""
    frames = enlarged(clip)
    with replacing(path) as aside:
        duration = max(round(100 / fps), 2) * 10  # ms; many players slow down what is faster
        frames[0].save(aside, format="GIF", save_all=True, append_images=frames[1:], duration=duration, loop=0, disposal=1)


def save_mp4(clip: Clip, path: Path, fps: float) -> None:
    """Write H.264 in MP4, whose sides are even: an odd one loses its last row or column. Raises `OutputError` where PyAV is missing."""
    try:
        import av
    except ModuleNotFoundError as error:
        raise OutputError("writing MP4 needs PyAV, which is not installed: pip install 'ditzoo[video]', or write gif") from error
    from fractions import Fraction

    frames = enlarged(clip)
    with replacing(path) as aside, av.open(str(aside), "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = frames[0].width // 2 * 2, frames[0].height // 2 * 2, "yuv420p"
        stream.options = {"crf": "16"}
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.asarray(frame)[: stream.height, : stream.width].copy(), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def save_frames(clip: Clip, folder: Path, fps: float) -> None:
    """Write each frame as a PNG file of its own, in its true size."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, frame in enumerate(clip):
        with replacing(folder / f"{index:05d}.png") as aside:
            frame.save(aside, format="PNG")


def contact_sheet(clips: Sequence[Clip], captions: Sequence[str]) -> Image:
    """Lay clips out, a row each, frame beside frame, with captions."""
    from PIL import Image, ImageDraw, ImageFont

    factor = max(1, round(56 / max(clips[0][0].size)))
    width, height = (side * factor for side in clips[0][0].size)
    line, gap = 18, 4
    sheet = Image.new("RGB", (max(map(len, clips)) * (width + gap) + gap, len(clips) * (height + line + gap) + gap), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for row, (clip, caption) in enumerate(zip(clips, captions, strict=True)):
        top = gap + row * (height + line + gap)
        pen.text((gap, top), caption, fill="black", font=font)
        for column, frame in enumerate(clip):
            shown = frame.convert("RGB").resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(shown, (gap + column * (width + gap), top + line))
    return sheet


# how a clip is written, by the ending of its file; the last is a folder
FORMATS: dict[str, Callable[[Clip, Path, float], None]] = {"gif": save_gif, "mp4": save_mp4, "png": save_frames}


def write_each(images: Sequence[Any], out: Path, form: str | None, fps: float) -> list[str]:
    """Write a file for each picture (PNG) or clip (`gif`, `mp4`, or `png`: a folder of frames); return their names."""
    clips = isinstance(images[0], list)
    ending = (form or "gif") if clips else "png"
    files = [f"{index:05d}" if clips and ending == "png" else f"{index:05d}.{ending}" for index in range(len(images))]
    try:
        for file, image in zip(files, images, strict=True):
            if clips:
                FORMATS[ending](image, out / file, fps)
                continue
            with replacing(out / file) as aside:
                image.save(aside, format="PNG")
    except OSError as error:
        raise OutputError(f"cannot write pictures into '{out}': {error}") from error
    return files
