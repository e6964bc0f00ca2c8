"""Specs of the codecs: `pixels`, which leaves pictures as they are, and `autoencoder-kl`, diffusers' image autoencoder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import model_validator

from ditzoo.specs import CodecSpec, Positive

if TYPE_CHECKING:
    from ditzoo.interfaces import Codec

PINNED = "31f26fdeee1355a5c34592e401dd41e45d25a493"  # of stabilityai/sd-vae-ft-mse, the default source


class PixelsSpec(CodecSpec):
    """The latent is the picture: 3 channels, or 1 for grey."""

    kind: Literal["pixels"] = "pixels"
    channels: Positive = 3
    factor: Literal[1] = 1
    time_factor: Literal[1] = 1

    def build(self) -> Codec:
        from ditzoo_data.pixels import Pixels

        return Pixels(self)


class DiffusersCodecSpec(CodecSpec):
    """An autoencoder of diffusers. `source` is a folder or hub repository in diffusers' layout, opened when something is coded and not
    before; `slice_size` are coded at a time, so that large batches need no more memory than small ones. `tiled` has the autoencoder code
    pictures larger than its tiles, those that it was trained on, tile by tile, blended where they meet: memory stays that of a tile, and
    the picture is nearly the same.
    """

    source: str
    subfolder: str | None = None
    revision: str | None = None
    slice_size: Positive = 4
    tiled: bool = False

    @property
    def pixel_channels(self) -> int:
        return 3

    def packed(self, folder: Path) -> Self:
        source = Path(self.source).expanduser() / (self.subfolder or "")
        if not source.exists():
            return self
        shutil.copytree(source, folder / "vae", dirs_exist_ok=True)
        return self.model_copy(update={"source": ".", "subfolder": "vae", "revision": None})

    def files_used(self) -> list[tuple[str, str | None, list[str]]]:
        folder = f"{self.subfolder}/" if self.subfolder else ""
        return [(self.source, self.revision, [f"{folder}config.json", f"{folder}diffusion_pytorch_model.*"])]


class AutoencoderKLSpec(DiffusersCodecSpec):
    """Latents of diffusers' `AutoencoderKL` (Rombach et al. 2021), scaled as (code - shift) * scale; of a clip frame by frame.

    `slice_size` are pictures or frames.
    """

    kind: Literal["autoencoder-kl"] = "autoencoder-kl"
    channels: Positive = 4
    scale: float = 0.18215
    factor: Positive = 8
    time_factor: Literal[1] = 1
    source: str = "stabilityai/sd-vae-ft-mse"

    @model_validator(mode="before")
    @classmethod
    def _pin(cls, data: Any) -> Any:
        """The default autoencoder is one commit of its repository, so that it stays the same."""
        if isinstance(data, Mapping) and "source" not in data and "revision" not in data:
            return {**data, "revision": PINNED}
        return data

    def build(self) -> Codec:
        from ditzoo_data.autoencoder import AutoencoderKLCodec

        return AutoencoderKLCodec(self)
