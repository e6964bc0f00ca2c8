"""Rolling along a clip: a window of frames whose times rise, moved on as its first frame becomes data.

Shapes: B clips, T frames, W of a window.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ditzoo.errors import SamplingError
from ditzoo.interfaces import Denoise, Sampler, Schedule
from ditzoo.noise import Noise
from ditzoo.predictions import expand


class Rolling(Sampler):
    """Frame f is noise until f - W + 1 frames are done, becomes data evenly from then on, and is data when f + 1 are.

    What is no video (B, C, T, H, W) is taken as one frame, and walked as DDIM walks it.
    """

    def __init__(self, window: int) -> None:
        self.window = window

    def trajectory(self, denoise: Denoise, x: Tensor, schedule: Schedule, steps: int, noise: Noise) -> Iterator[Tensor]:
        total = x.shape[2] if x.dim() == 5 else 1
        window = min(self.window, total)
        parts = total + window - 1  # of the walk; a frame takes `window` of them
        if steps * window < parts:
            raise SamplingError(
                f"{steps} steps roll past some of {total} frames with a window of {window}; take {-(-parts // window)} at least, "
                f"and {parts * 4} for a good clip"
            )
        times, frames = schedule.times(steps), torch.arange(1, total + 1, dtype=torch.float64)
        levels = torch.ones(total, dtype=torch.float64)  # of each frame: 1 is noise, 0 data
        for step in range(1, steps + 1):
            done = parts * step / steps - (window - 1)
            lo = min(int((levels == 0).sum()), total - window)
            place = slice(lo, lo + window)
            aim = torch.minimum(levels[place], ((frames[place] - done) / window).clamp(0, 1)) if step < steps else levels[place] * 0
            part = x[:, :, place] if x.dim() == 5 else x
            moved = _step(denoise, schedule, part, _at(times, levels[place]), _at(times, aim))
            levels[place] = aim
            x = torch.cat([x[:, :, :lo], moved, x[:, :, place.stop :]], dim=2) if x.dim() == 5 else moved
            yield x


def _at(times: Tensor, levels: Tensor) -> Tensor:
    """Return the times (W,) at levels from 1, the first of `times`, to 0, the last: between them evenly."""
    places = (1 - levels) * (len(times) - 1)
    below = places.floor().long().clamp(max=len(times) - 2)
    return torch.lerp(times[below], times[below + 1], places - below)


def _step(denoise: Denoise, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Go from times t (W,) of frames to s, by DDIM's step frame by frame; a frame whose time stays is not touched."""
    if x.dim() < 5:
        t, s = t[0], s[0]
    seen = denoise(x, t[None] if t.dim() else t)
    alpha, sigma = schedule.alpha_sigma(s[None] if s.dim() else s)
    moved = expand(alpha, x) * seen.x0 + expand(sigma, x) * seen.eps
    still = (t == s).to(x.device)
    return torch.where(still[:, None, None] if still.dim() else still, x, moved)
