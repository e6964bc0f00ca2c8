"""Autoencoders in a diffusers pipeline as codecs, and back: `AutoencoderKL`, and those of clips."""

from __future__ import annotations

from pathlib import Path

from ditzoo.errors import CheckpointError, LayoutError
from ditzoo.layouts import Component, Data
from ditzoo.model_spec import ModelSpec
from ditzoo_data.codecs import AutoencoderKLSpec, DiffusersCodecSpec
from ditzoo_data.video_codecs import LATENTS, VideoAutoencoderSpec

CURRENT_SCALE = 0.18215  # what Stable Diffusion's autoencoder is scaled by where an old config does not say


class Autoencoders(Component):
    """Only the config is read; the weights stay where they are until something is coded."""

    classes = frozenset({"AutoencoderKL"})
    folder = "vae"
    config = "config.json"

    def read(self, name: str, config: Data, source: Data) -> dict[str, Data | str]:
        blocks = config.get("block_out_channels", (64,))
        if config.get("latents_mean") is not None or config.get("latents_std") is not None:
            raise LayoutError("the autoencoder has latents_mean and latents_std, and codec 'autoencoder-kl' scales all channels alike")
        return {
            "codec": {
                "kind": "autoencoder-kl",
                "channels": config.get("latent_channels", 4),
                "scale": config.get("scaling_factor", CURRENT_SCALE),
                "shift": config.get("shift_factor") or 0.0,
                "factor": 2 ** (len(blocks) - 1),
                **source,
            }
        }

    def write(self, spec: ModelSpec, folder: Path | None) -> str | None:
        codec = spec.codec
        if not isinstance(codec, AutoencoderKLSpec):
            return f"a diffusers pipeline decodes with an AutoencoderKL, and the codec is '{codec.kind}'; no native class can express it"
        if folder is not None:
            save(codec, folder)
        return None


class VideoAutoencoders(Component):
    """The same of autoencoders of clips."""

    classes = frozenset(LATENTS)
    folder = "vae"
    config = "config.json"

    def read(self, name: str, config: Data, source: Data) -> dict[str, Data | str]:
        try:
            latents = LATENTS[name](config)._asdict()
        except KeyError as absent:
            raise LayoutError(f"config.json of the {name} does not tell {absent}, which says the form of its latents") from absent
        scale, shift = config.get("scaling_factor") or 1.0, config.get("shift_factor") or 0.0
        return {"codec": {"kind": "video-autoencoder", "autoencoder": name, "scale": scale, "shift": shift, **latents, **source}}

    def write(self, spec: ModelSpec, folder: Path | None) -> str | None:
        codec = spec.codec
        if not isinstance(codec, VideoAutoencoderSpec):
            return f"this pipeline decodes with an autoencoder of clips, and the codec is '{codec.kind}'"
        if folder is not None:
            save(codec, folder)
        return None


def save(codec: DiffusersCodecSpec, folder: Path) -> None:
    """Write the autoencoder of a codec; raise `CheckpointError` if the codec scales otherwise than it states."""
    autoencoder = codec.build().open().autoencoder  # type: ignore[attr-defined]
    stated = autoencoder.config.get("scaling_factor") or 1.0
    if abs(stated - codec.scale) > 1e-9:
        raise CheckpointError(
            f"'{codec.source}' states scaling_factor {stated:g}, and codec.scale is {codec.scale:g}; a pipeline uses what it states"
        )
    autoencoder.save_pretrained(folder)
