"""Specs of the codecs: `pixels`, which leaves pictures as they are, and `autoencoder-kl`, diffusers' image autoencoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ditzoo.specs import CodecSpec, Positive

if TYPE_CHECKING:
    from ditzoo.interfaces import Codec


class PixelsSpec(CodecSpec):
    """The latent is the picture: 3 channels, or 1 for grey."""

    kind: Literal["pixels"] = "pixels"
    channels: Positive = 3
    factor: Literal[1] = 1

    def build(self) -> Codec:
        from ditzoo_data.pixels import Pixels

        return Pixels(self)


class AutoencoderKLSpec(CodecSpec):
    """Latents of diffusers' `AutoencoderKL` (Rombach et al. 2021), scaled as (code - shift) * scale.

    `source` is a folder or hub repository in diffusers' layout, opened when something is coded and not before;
    `slice_size` pictures are coded at a time, so that large batches need no more memory than small ones.
    """

    kind: Literal["autoencoder-kl"] = "autoencoder-kl"
    channels: Positive = 4
    scale: float = 0.18215
    factor: Positive = 8
    source: str = "stabilityai/sd-vae-ft-mse"
    subfolder: str | None = None
    revision: str | None = None
    slice_size: Positive = 4

    @property
    def pixel_channels(self) -> int:
        return 3

    def build(self) -> Codec:
        from ditzoo_data.autoencoder import AutoencoderKLCodec

        return AutoencoderKLCodec(self)
