"""IDX files, and Fashion-MNIST read from them into memory (47 MB for the training split)."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ditzoo.errors import DataError

if TYPE_CHECKING:
    from ditzoo_data.fashion_mnist import FashionMNISTSpec


class FashionMNIST:
    """A dataset of `{"pixels": (1, 28, 28) in [-1, 1], "item": label}`."""

    def __init__(self, spec: FashionMNISTSpec) -> None:
        self.names = spec.names
        folder, prefix = Path(spec.folder).expanduser(), "train" if spec.split == "train" else "t10k"
        self.images = read_idx(find_idx(folder, f"{prefix}-images-idx3-ubyte"), rank=3)  # (N, 28, 28) uint8
        self.labels = read_idx(find_idx(folder, f"{prefix}-labels-idx1-ubyte"), rank=1)  # (N,) uint8
        if len(self.images) != len(self.labels):
            raise DataError(f"{folder}: {len(self.images)} {prefix} images but {len(self.labels)} labels; fetch the files again")
        if self.images.shape[1:] != spec.item_size:
            raise DataError(f"{folder}: images are {tuple(self.images.shape[1:])}, Fashion-MNIST's are {spec.item_size}")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixels": self.images[index][None].float() / 127.5 - 1, "item": int(self.labels[index])}


def find_idx(folder: Path, name: str) -> Path:
    """Return the path of an IDX file in `folder`, plain or gzipped; raise `DataError` that says how to get it."""
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise DataError(
        f"no Fashion-MNIST file {name}[.gz] in '{folder}'; on Debian 'apt install dataset-fashion-mnist' puts it there, "
        f"or point data.folder at a folder with the four IDX files of github.com/zalandoresearch/fashion-mnist"
    )


def read_idx(path: Path, rank: int) -> Tensor:
    """Read an IDX file of unsigned bytes with `rank` axes as a uint8 tensor."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise DataError(f"cannot read {path}: {error}; fetch the file again") from error
    header = 4 + 4 * rank
    if len(raw) < header or raw[:4] != bytes([0, 0, 8, rank]):
        raise DataError(f"{path} is no IDX file of bytes with {rank} axes; fetch the file again")
    size = struct.unpack(f">{rank}I", raw[4:header])
    wanted = header + int(torch.tensor(size).prod())
    if len(raw) != wanted:
        raise DataError(f"{path} is truncated: {len(raw)} bytes, its header promises {wanted}; fetch the file again")
    return torch.frombuffer(bytearray(raw[header:]), dtype=torch.uint8).reshape(size)
