"""diffusers' `AutoencoderKL` in a pipeline as the codec `autoencoder-kl`, and back."""

from __future__ import annotations

from pathlib import Path

from ditzoo.errors import CheckpointError, LayoutError
from ditzoo.layouts import Component, Data
from ditzoo.model_spec import ModelSpec
from ditzoo_data.codecs import AutoencoderKLSpec

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
        if folder is None:
            return None
        autoencoder = codec.build().open().autoencoder  # type: ignore[attr-defined]
        stated = autoencoder.config.scaling_factor
        if abs(stated - codec.scale) > 1e-9:
            raise CheckpointError(
                f"'{codec.source}' states scaling_factor {stated:g}, and codec.scale is {codec.scale:g}; a pipeline uses what it states"
            )
        autoencoder.save_pretrained(folder)
        return None
