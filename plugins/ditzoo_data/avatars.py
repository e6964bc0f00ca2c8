"""Captioned pixel avatars out of the packed file beside this module."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from ditzoo.errors import DataError

FILE = Path(__file__).parent / "avatars.safetensors.xz"


class Avatars:
    """`attributes` (N, A) are the values of each by number, named in `values`; `unseen` (N,) says which combinations are in no training.

    `groups` tells apart pictures by that, and by whether any training picture has the same caption.
    """

    names: tuple[str, ...] = ()

    def __init__(self, split: str) -> None:
        try:
            packed = lzma.decompress(FILE.read_bytes())
        except (OSError, lzma.LZMAError) as error:
            raise DataError(f"cannot read the avatars that ship with ditzoo: {error}; install ditzoo again") from error
        told = json.loads(packed[8 : 8 + int.from_bytes(packed[:8], "little")])["__metadata__"]  # of safetensors
        tensors, train = load(packed), int(told["train"])
        rows = slice(0, train) if split == "train" else slice(train, None)
        self.values: dict[str, list[str]] = json.loads(told["values"])
        self.pictures: Tensor = tensors["pictures"][rows]
        self.attributes, self.unseen = tensors["attributes"][rows].long(), tensors["unseen"][rows]
        captions = bytes(tensors["captions"].tolist()).decode().split("\n")
        self.captions, trained = captions[rows], set(captions[:train])
        new = torch.tensor([caption not in trained for caption in self.captions])
        self.groups = {"seen combinations": ~self.unseen, "unseen combinations": self.unseen, "unseen captions": new}

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict[str, Any]:
        pixels = self.pictures[index].permute(2, 0, 1).to(torch.float32) / 127.5 - 1
        return {"pixels": pixels, "item": self.captions[index]}
