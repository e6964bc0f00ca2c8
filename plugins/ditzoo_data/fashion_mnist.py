"""Fashion-MNIST (Xiao et al. 2017, MIT licence) from its four IDX files, gzipped or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ditzoo.specs import DatasetSpec

if TYPE_CHECKING:
    from ditzoo.interfaces import Dataset

NAMES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


class FashionMNISTSpec(DatasetSpec):
    """60,000 training and 10,000 test pictures of ten kinds of clothing, 28x28, grey.

    `folder` holds the IDX files; the default is where Debian's package `dataset-fashion-mnist` puts them.
    """

    kind: Literal["fashion-mnist"] = "fashion-mnist"
    names: ClassVar[tuple[str, ...]] = NAMES
    folder: str = "/usr/share/datasets/fashion-mnist"
    split: Literal["train", "test"] = "train"

    @property
    def item_size(self) -> tuple[int, ...]:
        return (28, 28)

    @property
    def item_channels(self) -> int:
        return 1

    @property
    def item_classes(self) -> int:
        return len(NAMES)

    def build(self) -> Dataset:
        from ditzoo_data.idx import FashionMNIST

        return FashionMNIST(self)
