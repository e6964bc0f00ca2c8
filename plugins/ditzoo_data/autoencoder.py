"""diffusers' AutoencoderKL as a codec, and what codecs by diffusers have alike: it is imported when the first picture is coded."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor

from ditzoo.errors import CheckpointError
from ditzoo.interfaces import Codec

if TYPE_CHECKING:
    from ditzoo_data.codecs import AutoencoderKLSpec, DiffusersCodecSpec


class DiffusersCodec(Codec):
    """The autoencoder is of a class of diffusers; it is frozen and follows its input's device."""

    def __init__(self, spec: DiffusersCodecSpec, name: str) -> None:
        self.spec, self.name = spec, name

    @cached_property
    def autoencoder(self) -> Any:
        import diffusers

        spec = self.spec
        options = {"subfolder": spec.subfolder, "revision": spec.revision}
        try:
            loaded = getattr(diffusers, self.name).from_pretrained(spec.source, **{k: v for k, v in options.items() if v is not None})
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"codec '{spec.kind}' cannot load '{spec.source}': {str(error).splitlines()[0]}; set codec.source to a "
                f"folder or repository that holds an {self.name}, or sample with output_type='latent'"
            ) from error
        self.check(loaded)
        if spec.tiled:
            loaded.enable_tiling()
        return loaded.requires_grad_(False).eval()

    def check(self, loaded: Any) -> None:
        """Raise `CheckpointError` if the autoencoder is not what the spec says."""
        if loaded.config.latent_channels != self.spec.channels:
            raise CheckpointError(
                f"'{self.spec.source}' makes {loaded.config.latent_channels}-channel latents, and codec.channels is {self.spec.channels}"
            )

    def open(self) -> Codec:
        _ = self.autoencoder
        return self


class AutoencoderKLCodec(DiffusersCodec):
    """Encodes to the mode of the posterior, decodes in slices; the frames of a clip are pictures of their own."""

    def __init__(self, spec: AutoencoderKLSpec) -> None:
        super().__init__(spec, "AutoencoderKL")

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        codes = self._sliced(lambda part: self.autoencoder.encode(part).latent_dist.mode(), pixels)
        return (codes - self.spec.shift) * self.spec.scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        return self._sliced(lambda part: self.autoencoder.decode(part).sample, latents / self.spec.scale + self.spec.shift)

    def _sliced(self, work: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
        self.autoencoder.to(batch.device, batch.dtype)
        pictures = batch if batch.dim() == 4 else rearrange(batch, "b c t h w -> (b t) c h w")
        done = torch.cat([work(part) for part in pictures.split(self.spec.slice_size)])
        return done if batch.dim() == 4 else rearrange(done, "(b t) c h w -> b c t h w", b=len(batch))
