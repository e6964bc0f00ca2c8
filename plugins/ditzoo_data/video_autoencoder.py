"""diffusers' autoencoders of clips as a codec.

Shapes: B clips, C latent channels, T frames or latent frames.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor

from ditzoo.errors import CheckpointError
from ditzoo_data.autoencoder import DiffusersCodec
from ditzoo_data.video_codecs import LATENTS

if TYPE_CHECKING:
    from ditzoo_data.video_codecs import VideoAutoencoderSpec


def coded(autoencoder: Any, clips: Tensor) -> Tensor:
    """Return the mode of the posterior of clips (B, 3, T, H, W)."""
    code: Tensor = autoencoder.encode(clips).latent_dist.mode()
    return code


def coded_by_frame(autoencoder: Any, clips: Tensor) -> Tensor:
    """Return the same where the autoencoder codes frames as pictures, one at a time."""
    frames = rearrange(clips, "b c t h w -> (b t) c h w")
    code = torch.cat([coded(autoencoder, frame) for frame in frames.split(1)])
    return rearrange(code, "(b t) c h w -> b c t h w", b=len(clips))


def decoded(autoencoder: Any, latents: Tensor, at_once: int | None) -> Tensor:
    """Return the clips of latents (B, C, T, H, W), by an autoencoder that knows of slices itself."""
    if at_once is not None:
        autoencoder.use_framewise_decoding = True
        autoencoder.tile_sample_min_num_frames, autoencoder.tile_sample_stride_num_frames = at_once, at_once // 2
    clips: Tensor = autoencoder.decode(latents).sample
    return clips


def decoded_from_frames(autoencoder: Any, latents: Tensor, at_once: int | None) -> Tensor:
    """Return the same where the decoder is given frames as rows and told how many are of a clip; `at_once` are decoded at a time."""
    parts = []
    for part in latents.split(at_once or latents.shape[2], dim=2):
        rows = rearrange(part, "b c t h w -> (b t) c h w")
        parts.append(rearrange(autoencoder.decode(rows, num_frames=part.shape[2]).sample, "(b t) c h w -> b c t h w", b=len(latents)))
    return torch.cat(parts, dim=2)


Encode = Callable[[Any, Tensor], Tensor]
Decode = Callable[[Any, Tensor, int | None], Tensor]
WAYS: dict[str, tuple[Encode, Decode]] = {"AutoencoderKLTemporalDecoder": (coded_by_frame, decoded_from_frames)}


class VideoAutoencoder(DiffusersCodec):
    """Encodes to the mode of the posterior, standardised where the autoencoder says how; decodes clip by clip."""

    spec: VideoAutoencoderSpec

    def __init__(self, spec: VideoAutoencoderSpec) -> None:
        super().__init__(spec, spec.autoencoder)
        self.to_latents, self.to_clips = WAYS.get(spec.autoencoder, (coded, decoded))

    def check(self, loaded: Any) -> None:
        found = LATENTS[self.spec.autoencoder](loaded.config)
        wrong = [f"codec.{name}={value}" for name, value in found._asdict().items() if getattr(self.spec, name) != value]
        if wrong:
            raise CheckpointError(f"'{self.spec.source}' is an autoencoder of another form than the codec says; set {', '.join(wrong)}")
        if getattr(loaded.config, "timestep_conditioning", False):
            raise CheckpointError(f"the decoder of '{self.spec.source}' is told a time, which codec 'video-autoencoder' has not")

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        self.autoencoder.to(pixels.device, pixels.dtype)
        code = torch.cat([self.to_latents(self.autoencoder, part) for part in pixels.split(self.spec.slice_size)])
        mean, deviation = self.standard(code)
        return ((code - mean) / deviation - self.spec.shift) * self.spec.scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        self.autoencoder.to(latents.device, latents.dtype)
        mean, deviation = self.standard(latents)
        code = (latents / self.spec.scale + self.spec.shift) * deviation + mean
        return torch.cat([self.to_clips(self.autoencoder, part, self.spec.slice_frames) for part in code.split(self.spec.slice_size)])

    def standard(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and deviation of each channel, (C, 1, 1, 1); 0 and 1 where the autoencoder does not say."""
        return self._of_channels("latents_mean", 0.0, like), self._of_channels("latents_std", 1.0, like)

    def _of_channels(self, name: str, default: float, like: Tensor) -> Tensor:
        told = dict(self.autoencoder.named_buffers()).get(name, self.autoencoder.config.get(name))
        values = torch.full((self.spec.channels,), default) if told is None else torch.as_tensor(told)
        return values.to(like)[:, None, None, None]
