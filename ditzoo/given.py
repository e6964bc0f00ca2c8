"""Frames of a clip that are given: clean data at its own time 0, around which the others are drawn.

Shapes: B clips, C latent channels, T frames, n given ones, (H, W) a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ditzoo.errors import SamplingError
from ditzoo.interfaces import Codec, Prediction, Schedule
from ditzoo.model_spec import ModelSpec
from ditzoo.placing import placed
from ditzoo.predictions import expand


@dataclass(frozen=True)
class Given:
    """The latents of given frames, and where they lie."""

    frames: Tensor  # (B, C, T, H, W), of which those that are kept count
    kept: Tensor  # (T,) bool

    def rows(self, index: slice) -> Given:
        return Given(self.frames[index], self.kept)

    def within(self, place: Sequence[slice]) -> Given:
        """Return what is given of a part of each clip, a slice for each axis of (T, H, W)."""
        return Given(self.frames[(slice(None), slice(None), *place)], self.kept[place[0]])

    def to(self, like: Tensor) -> Given:
        """Return the same in dtype and on the device of `like`."""
        return Given(self.frames.to(like), self.kept.to(like.device))

    def laid(self, x: Tensor) -> Tensor:
        """Lay the given frames into x (B, C, T, H, W)."""
        return torch.where(self.kept[:, None, None], self.frames, x)

    def times(self, t: Tensor, schedule: Schedule) -> Tensor:
        """Return the model times of the frames (T,): at t, and of those given at 0."""
        times = torch.where(self.kept.to(t.device), 0.0, t.double())
        return schedule.model_time(times)

    def held(self, seen: Prediction, x: Tensor, t: Tensor, schedule: Schedule) -> Prediction:
        """Put what is known of the given frames into a prediction at x: their data, and the noise that x has besides."""
        alpha, sigma = schedule.alpha_sigma(t)
        eps = (x - expand(alpha, x) * self.frames) / expand(sigma.clamp(min=1e-6), x)
        kept = self.kept[:, None, None]
        return Prediction(torch.where(kept, self.frames, seen.x0), torch.where(kept, eps, seen.eps), seen.variance)


def given_frames(spec: ModelSpec, codec: Codec, frames: Any, at: str | Sequence[int], count: int) -> Given:
    """Return what is given of `count` clips: frames for all, or a list of them a clip, as pictures or (C, n, H, W) in [0, 1].

    Raises `SamplingError` as `placed` does, and where there are as many lists as neither one nor the clips.
    """
    pixels = _pixels(spec, frames)  # (1 or B, C, n, H, W)
    if len(pixels) not in (1, count):
        raise SamplingError(f"frames are given for {len(pixels)} clips and {count} are drawn; give them once, or for each clip")
    if pixels.shape[1] != spec.codec.pixel_channels:
        raise SamplingError(f"given frames have {pixels.shape[1]} channels, and '{spec.name}' draws {spec.codec.pixel_channels}")
    places = placed(spec, pixels.shape[2], tuple(pixels.shape[3:]), at)
    coded = codec.encode(pixels * 2 - 1)
    whole = coded.new_zeros(len(coded), coded.shape[1], *spec.latent_size())
    kept = torch.zeros(whole.shape[2], dtype=torch.bool)
    for place, number in places.items():
        whole[:, :, place], kept[place] = coded[:, :, number], True
    return Given(whole.expand(count, *whole.shape[1:]), kept)


def _pixels(spec: ModelSpec, frames: Any) -> Tensor:
    if isinstance(frames, Tensor):
        return frames.float() if frames.dim() == 5 else frames.float()[None]
    clips = frames if frames and isinstance(frames[0], list | tuple) else [frames]
    if not all(clips) or len(set(map(len, clips))) > 1:
        raise SamplingError(f"clips have {', '.join(str(len(clip)) for clip in clips)} given frames; give each as many, one at least")
    mode = "L" if spec.codec.pixel_channels == 1 else "RGB"
    arrays = np.stack([np.stack([np.asarray(frame.convert(mode)) for frame in clip]) for clip in clips])
    pixels = torch.from_numpy(arrays).float() / 255  # (B, n, H, W) or (B, n, H, W, 3)
    return pixels[:, None] if pixels.dim() == 4 else pixels.movedim(-1, 1)
