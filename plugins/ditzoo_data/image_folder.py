"""`image-folder`: pictures in one folder a class, as most datasets are handed around."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ditzoo.specs import DatasetSpec, Positive

if TYPE_CHECKING:
    from ditzoo.interfaces import Dataset


class ImageFolderSpec(DatasetSpec):
    """`folder/CLASS/**/picture.png`; classes are the sub-folders in sorted order, or one class without sub-folders.

    Pictures are scaled so that the shorter side is `size`, then cropped at the centre. `channels` is 3 for colour, 1 for
    grey. `on_error` says what becomes of a file that cannot be read, `unlike` of one that is not 8-bit RGB (or grey): CMYK, 16 bits,
    transparent, grey where colour is wanted. The run stops, the picture is converted, or the next one stands in and a warning tells it.
    """

    kind: Literal["image-folder"] = "image-folder"
    folder: str
    size: Positive
    channels: Literal[1, 3] = 3
    flip: bool = False
    on_error: Literal["stop", "skip"] = "stop"
    unlike: Literal["convert", "stop", "skip"] = "convert"

    @property
    def item_size(self) -> tuple[int, ...]:
        return (self.size, self.size)

    @property
    def item_channels(self) -> int:
        return self.channels

    def build(self) -> Dataset:
        from ditzoo_data.image_files import ImageFolder

        return ImageFolder(self)
