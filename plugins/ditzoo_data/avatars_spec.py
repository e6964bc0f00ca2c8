"""The spec of the captioned pixel avatars that ship with this plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ditzoo.specs import DatasetSpec

if TYPE_CHECKING:
    from ditzoo.interfaces import Dataset


class AvatarsSpec(DatasetSpec):
    """24,000 training and 4,000 test avatars, 16x16, in colour, each with a caption such as "tan skin, long red hair, glasses, sad".

    They are drawn parts (DiceBear's Pixel Art, CC0 1.0) put together by a program, `tools/avatars/pack.py`. Half of the test avatars
    have a combination of hair colour, shirt and background that no training avatar has; training captions leave things unsaid.
    """

    kind: Literal["avatars"] = "avatars"
    split: Literal["train", "test"] = "train"

    @property
    def item_size(self) -> tuple[int, ...]:
        return (16, 16)

    @property
    def item_channels(self) -> int:
        return 3

    def build(self) -> Dataset:
        from ditzoo_data.avatars import Avatars

        return Avatars(self.split)
