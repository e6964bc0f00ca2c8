"""The training loss: squared error of the native prediction, and the variational bound for a learned variance.

As Improved DDPM (Nichol and Dhariwal 2021, eq. 16) the bound's gradient reaches the variance alone: the mean is detached.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ditzoo.assemble import Model
from ditzoo.interfaces import Prediction, Schedule, counted
from ditzoo.packing import Pack
from ditzoo.predictions import expand
from ditzoo.training.frames import times_of
from ditzoo.training.tables import Objective

VARIANCE_WEIGHT = 1e-3  # the lambda of L_hybrid


@dataclass(frozen=True)
class Draws:
    """The random numbers of one batch, drawn outside so that a step's result depends on nothing else."""

    noise: Tensor  # (B, C, *S), on the device of the latents; of a pack (N, C, *P)
    time: Tensor  # (B,) uniform in [0, 1), float64; it stays on the CPU, for some devices have no float64
    drop: Tensor  # (B,) likewise
    frames: Tensor | None = None  # (B, T) in place of `time`, one a frame, below 0 where it is given; of a pack (F,) of all clips

    @classmethod
    def of(cls, like: Tensor, generator: torch.Generator, items: int | None = None) -> Draws:
        """Draw for `items` items, one a row of `like` if None."""
        noise = torch.randn(like.shape, generator=generator)
        time, drop = torch.rand(2, len(like) if items is None else items, generator=generator, dtype=torch.float64)
        return cls(noise.to(like), time, drop)

    def rows(self, index: slice, device: torch.device) -> Draws:
        frames = None if self.frames is None else self.frames[index]
        return Draws(self.noise[index].to(device), self.time[index], self.drop[index], frames)


Call = Callable[[Tensor | Pack, Tensor, Any, Tensor, Tensor, Tensor | None], Tensor]


def diffusion_loss(
    model: Model, call: Call, schedule: Schedule, latents: Tensor | Pack, items: Any, draws: Draws, objective: Objective | None = None
) -> Tensor:
    """Return the loss of each item (B,). `call(x, t, items, target, weights, counts)` returns the model's native prediction.

    The target (B, C, *S), what a row's squared error weighs (B,) and what counts of it are for those who look on. Of a pack the rows are
    its patches, each at the time of its clip.
    """
    packing = latents.packing if isinstance(latents, Pack) else None
    clean = latents.patches if isinstance(latents, Pack) else latents
    times = times_of(schedule, draws.time, draws.frames, packing, clean.dim(), objective)
    alpha, sigma = schedule.alpha_sigma(times.noise)
    x = expand(alpha, clean) * clean + expand(sigma, clean) * draws.noise
    channels, target = clean.shape[1], schedule.target(clean, draws.noise, times.errors)
    weighs = times.weights.to(clean.device)
    asked = model.prompt.drop(items, draws.drop)
    fed = x if packing is None else Pack(x, packing)
    counts = None if times.counts is None else times.counts.to(x.device)
    out = call(fed, schedule.model_time(times.told).float().to(x.device), asked, target, weighs, counts).float()
    loss = counted((out[:, :channels] - target).square(), counts) * weighs
    if out.shape[1] == 2 * channels:
        seen = schedule.split(torch.cat([out[:, :channels].detach(), out[:, channels:]], 1), x, times.errors)
        if seen.variance is not None:
            loss = loss + VARIANCE_WEIGHT * _bound(schedule, clean, x, times.errors, seen, counts)
    return loss if packing is None else packing.means(loss)


def _bound(schedule: Schedule, x0: Tensor, x: Tensor, t: Tensor, seen: Prediction, counts: Tensor | None) -> Tensor:
    """Return the KL divergence of the true and the learned posterior in bits a dimension, times the number of steps, (B,).

    The first step's posterior has no variance, and the sampler adds no noise there: those rows take the second step's
    levels, where Improved DDPM has a decoder likelihood.
    """
    assert schedule.count is not None, "a schedule that splits off a variance has discrete levels"
    steps = schedule.count
    s = (t - 1 / steps).clamp(min=1 / steps)
    t = torch.maximum(t, s + 1 / steps)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.alpha_sigma(t), schedule.alpha_sigma(s)
    added = sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2
    small = added * (sigma_s / sigma_t) ** 2
    assert seen.variance is not None
    low, high = expand(small.log(), x).expand_as(x), expand(added.log(), x).expand_as(x)
    learned = torch.lerp(low, high, seen.variance)
    shift = expand(alpha_s * added / sigma_t**2, x) * (x0 - seen.x0)
    kl = 0.5 * (learned - low + torch.exp(low - learned) + shift.square() * torch.exp(-learned) - 1)
    return steps * counted(kl, counts) / torch.log(torch.tensor(2.0))
