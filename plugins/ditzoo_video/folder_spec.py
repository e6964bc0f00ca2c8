"""`video-folder`: clips out of video files, in one folder a class or with a caption beside each file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from ditzoo.specs import DatasetSpec, Positive

if TYPE_CHECKING:
    from ditzoo.interfaces import Dataset


class VideoFolderSpec(DatasetSpec):
    """`folder/CLASS/**/clip.mp4`, or with `items = "captions"` files with a text each, `clip.txt` beside `clip.mp4`; needs PyAV.

    A clip is `frames` long at `fps` a second (None: as the file has them): frames are taken by their time, so a file of variable rate
    is read as it plays. Frames are turned upright, scaled so that they cover `height` x `width`, and cropped at the centre; `channels`
    is 3 for colour, 1 for grey. `clips` is `first`, one a file, or `all`, as many as lie one after another in it. A file that cannot be
    read, has no pictures or too few of them stops the run, or with `on_error = "skip"` the next stands in and a warning tells it.
    """

    kind: Literal["video-folder"] = "video-folder"
    folder: str
    frames: Positive
    height: Positive
    width: Positive
    fps: float | None = Field(None, gt=0)
    channels: Literal[1, 3] = 3
    items: Literal["classes", "captions"] = "classes"
    clips: Literal["first", "all"] = "first"
    on_error: Literal["stop", "skip"] = "stop"

    @classmethod
    def examples(cls) -> dict[str, dict[str, Any]]:
        return {"": {"folder": "clips", "frames": 4, "height": 8, "width": 8}}

    @property
    def item_size(self) -> tuple[int, ...]:
        return (self.frames, self.height, self.width)

    @property
    def item_channels(self) -> int:
        return self.channels

    def build(self) -> Dataset:
        from ditzoo_video.folder import VideoFolder

        return VideoFolder(self)
