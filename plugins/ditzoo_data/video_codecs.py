"""The spec of `video-autoencoder`: diffusers' autoencoders of clips, and what their configs say of latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from ditzoo.specs import Positive, shape
from ditzoo_data.codecs import DiffusersCodecSpec

if TYPE_CHECKING:
    from ditzoo.interfaces import Codec

Config = Mapping[str, Any]
Autoencoder = Literal[
    "AutoencoderKLCogVideoX",
    "AutoencoderKLHunyuanVideo",
    "AutoencoderKLLTXVideo",
    "AutoencoderKLTemporalDecoder",
    "AutoencoderKLWan",
]


class Latents(NamedTuple):
    """What an autoencoder makes of clips: fields of the spec, by its config."""

    channels: int
    factor: int
    time_factor: int = 1
    latent_step: int = 1


def _cogvideox(config: Config) -> Latents:
    # its decoder takes the first frame for one alone where the number of latent frames is odd, and never else
    return Latents(config["latent_channels"], 2 ** (len(config["block_out_channels"]) - 1), int(config["temporal_compression_ratio"]), 2)


def _hunyuan(config: Config) -> Latents:
    return Latents(config["latent_channels"], config["spatial_compression_ratio"], config["temporal_compression_ratio"])


def _ltx(config: Config) -> Latents:
    halvings = 2 ** sum(config["spatio_temporal_scaling"])
    return Latents(
        config["latent_channels"],
        config.get("spatial_compression_ratio") or config["patch_size"] * halvings,
        config.get("temporal_compression_ratio") or config["patch_size_t"] * halvings,
    )


def _temporal_decoder(config: Config) -> Latents:
    return Latents(config["latent_channels"], 2 ** (len(config["block_out_channels"]) - 1))


def _wan(config: Config) -> Latents:
    return Latents(config["z_dim"], config.get("scale_factor_spatial") or 8, config.get("scale_factor_temporal") or 4)


LATENTS: dict[str, Callable[[Config], Latents]] = {
    "AutoencoderKLCogVideoX": _cogvideox,
    "AutoencoderKLHunyuanVideo": _hunyuan,
    "AutoencoderKLLTXVideo": _ltx,
    "AutoencoderKLTemporalDecoder": _temporal_decoder,
    "AutoencoderKLWan": _wan,
}
IN_SLICES = {"AutoencoderKLCogVideoX", "AutoencoderKLWan"}  # pass over a clip in slices by themselves, and lose nothing
WHOLE = {"AutoencoderKLTemporalDecoder"}  # code each frame as a whole


class VideoAutoencoderSpec(DiffusersCodecSpec):
    """Latents of clips by an autoencoder of diffusers of the class `autoencoder`, scaled as (code - shift) * scale.

    Where the autoencoder has a mean and a deviation for each channel, the code is standardised by these first, as its pipeline does.
    `slice_size` clips are coded at a time. `slice_frames` is how many frames are decoded at a time, for the classes that do not pass
    over a clip in slices by themselves; slices that an autoencoder has no memory between are blended where they meet, or, of
    `AutoencoderKLTemporalDecoder`, laid one after another. The latent frames after the first come in multiples of `latent_step`.
    """

    kind: Literal["video-autoencoder"] = "video-autoencoder"
    autoencoder: Autoencoder
    channels: Positive = 16
    factor: Positive = 8
    time_factor: Positive = 4
    latent_step: Positive = 1
    slice_size: Positive = 1
    slice_frames: Positive | None = Field(None, description="frames that are decoded at a time; None: as the autoencoder has it")

    @classmethod
    def examples(cls) -> dict[str, dict[str, Any]]:
        return {"": {"autoencoder": "AutoencoderKLWan", "source": "vae"}}

    @model_validator(mode="after")
    def _tiles(self) -> VideoAutoencoderSpec:
        if self.tiled and self.autoencoder in WHOLE:
            raise ValueError(f"{self.autoencoder} knows no tiles; leave out tiled=true, and decode few frames at a time with slice_frames")
        return self

    @model_validator(mode="after")
    def _slices(self) -> VideoAutoencoderSpec:
        if self.slice_frames is None:
            return self
        if self.autoencoder in IN_SLICES:
            raise ValueError(f"{self.autoencoder} decodes a clip in slices by itself; leave out slice_frames={self.slice_frames}")
        step = 2 * self.time_factor
        if self.slice_frames % step:
            down, up = self.slice_frames // step * step, -(-self.slice_frames // step) * step
            raise ValueError(f"slice_frames={self.slice_frames} is not a multiple of 2 * time_factor={step}; nearest: {down or up}, {up}")
        return self

    def latent_size(self, size: Sequence[int]) -> tuple[int, ...]:
        if len(size) != 3:
            raise ValueError(f"codec 'video-autoencoder' codes clips (frames, height, width), found {shape(size)}; choose another codec")
        found = super().latent_size(size)
        if (found[0] - 1) % self.latent_step:
            step = self.time_factor * self.latent_step
            below = (size[0] - 1) // step * step + 1
            raise ValueError(
                f"{size[0]} frames are {found[0]} latent frames, and {self.autoencoder} codes one and a multiple of {self.latent_step}; "
                f"nearest: {below}, {below + step} frames"
            )
        return found

    def build(self) -> Codec:
        from ditzoo_data.video_autoencoder import VideoAutoencoder

        return VideoAutoencoder(self)
