"""How likely pictures are under a model: the probability-flow ODE carries them to noise, and its divergence is added up.

Along the straight path's variable, z = x / (alpha + sigma) over r = sigma / (alpha + sigma), the flow is dz/dr = eps - x_0 and
d log p / dr = -div(dz/dr) (Chen et al. 2018; Song et al. 2020, "Score-Based Generative Modeling", section 4.3). The divergence is
estimated by Hutchinson's trace with random signs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ditzoo.denoiser import Ledger
from ditzoo.errors import SamplingError
from ditzoo.interfaces import Denoise, Schedule
from ditzoo.noise import generator
from ditzoo.predictions import expand
from ditzoo.request import Steering, adjusted, requested
from ditzoo.sampling import denoiser_of
from ditzoo.specs import shape

if TYPE_CHECKING:
    from ditzoo.assemble import Model

FIRST = 1e-3  # the share of noise at which pictures are taken to be
LEVELS = 127.5  # 8-bit levels in a unit of pixels in [-1, 1]


class Likelihood(NamedTuple):
    """The density's logarithm in nats, (B,) float64, and the bits a dimension that it means for 8-bit pictures in [-1, 1], (B,)."""

    log_density: Tensor
    bits_per_dimension: Tensor


def log_likelihood(
    model: Model,
    pixels: Tensor,
    *,
    class_labels: Any = None,
    prompt: Any = None,
    num_inference_steps: int = 32,
    probes: int = 1,
    dequantise: bool = True,
    seed: int = 0,
) -> Likelihood:
    """Return how likely pictures (B, C, *S) in [-1, 1] are, each under what it was asked for; no guidance.

    Pictures of 256 levels have no density of their own: `dequantise` adds less than a level of even noise to each pixel. Codecs other
    than pixels make it the density of the latents, whose bits say nothing of the pictures'.

    Args:
        num_inference_steps: Heun steps from data to noise, two looks each.
        probes: random signs a look; more lower the estimate's deviation.

    Raises:
        SamplingError: the pictures are not of the model's size, or not as many as the items.
    """
    if dequantise:
        even = torch.rand(pixels.shape, generator=generator(seed, "dequantise")).to(pixels)
        pixels = pixels + (even - 0.5) / LEVELS
    x, items = coded(model, pixels, class_labels=class_labels, prompt=prompt)
    spec = adjusted(model.spec, steps=num_inference_steps, guidance_scale=1.0)
    denoiser = denoiser_of(model, spec, items, Ledger(), Steering())
    found = density(denoiser, x, denoiser.schedule, num_inference_steps, probes=probes, seed=seed).cpu()
    size = math.prod(x.shape[1:])
    return Likelihood(found, -found / (size * math.log(2)) + math.log2(LEVELS))


def coded(model: Model, pixels: Tensor, *, class_labels: Any, prompt: Any) -> tuple[Tensor, Sequence[Any]]:
    """Return latents of pictures on the model's device, and an item for each; raise `SamplingError` where they do not fit."""
    spec = model.spec
    wanted = (spec.codec.pixel_channels, *spec.pixel_size())
    if tuple(pixels.shape[1:]) != wanted:
        raise SamplingError(f"pictures are {shape(pixels.shape[1:])}, and '{spec.name}' works on {shape(wanted)}")
    items = requested(spec, class_labels=class_labels, prompt=prompt, num_images=len(pixels))
    return spec.codec.build().encode(pixels.to(model.device, model.dtype)), items


def density(denoise: Denoise, x: Tensor, schedule: Schedule, steps: int, *, probes: int = 1, seed: int = 0) -> Tensor:
    """Return the log density (B,) of data x (B, ...) under the flow that a denoiser gives, by Heun over `steps` steps."""
    alphas, sigmas = schedule.alpha_sigma(schedule.times(steps))
    walked: list[float] = (sigmas / (alphas + sigmas)).flip(0).tolist()  # from data to noise
    shares = [FIRST, *(share for share in walked if share > FIRST)]
    draws, size = generator(seed, "hutchinson"), math.prod(x.shape[1:])
    signs = [(torch.randint(0, 2, x.shape, generator=draws) * 2 - 1).to(x) for _ in range(probes)]
    z = (1 - FIRST) * x
    total = torch.full((len(x),), size * math.log(1 - FIRST), dtype=torch.float64, device=x.device)
    for here, there in itertools.pairwise(shares):
        slope, trace = _look(denoise, schedule, z, here, signs)
        ahead, ahead_trace = _look(denoise, schedule, z + (there - here) * slope, there, signs)
        z = z + (there - here) * (slope + ahead) / 2
        total += (there - here) * (trace + ahead_trace) / 2
    scale, level = float(alphas[0] + sigmas[0]), float(sigmas[0])
    end = z.double() * scale / level  # standard normal where the path begins, up to the signal that is left there
    noise = -(end.square().flatten(1).sum(1) + size * math.log(2 * math.pi)) / 2
    return total + noise + size * math.log(scale / level)


def _look(denoise: Denoise, schedule: Schedule, z: Tensor, share: float, signs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return dz/dr and an estimate of its divergence (B,)."""
    t = schedule.time_at(torch.tensor((1 - share) / share if share < 1 else 0.0, dtype=torch.float64).log())
    alpha, sigma = schedule.alpha_sigma(t)
    with torch.enable_grad():
        z = z.detach().requires_grad_(True)
        seen = denoise(z * expand(alpha + sigma, z), t)
        slope = seen.eps - seen.x0
        traces = []
        for number, sign in enumerate(signs):
            (back,) = torch.autograd.grad(slope, z, sign, retain_graph=number + 1 < len(signs))
            traces.append((back * sign).double().flatten(1).sum(1))
    return slope.detach(), torch.stack(traces).mean(0)
