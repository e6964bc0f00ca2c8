"""The codec that leaves pictures as they are, but for scale and shift."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ditzoo.interfaces import Codec

if TYPE_CHECKING:
    from ditzoo_data.codecs import PixelsSpec


class Pixels(Codec):
    """(pixels - shift) * scale, and back."""

    def __init__(self, spec: PixelsSpec) -> None:
        self.spec = spec

    def encode(self, pixels: Tensor) -> Tensor:
        return (pixels - self.spec.shift) * self.spec.scale

    def decode(self, latents: Tensor) -> Tensor:
        return latents / self.spec.scale + self.spec.shift
