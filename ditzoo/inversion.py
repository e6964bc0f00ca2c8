"""From a picture back to the noise that a deterministic sampler makes it of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ditzoo.denoiser import Ledger
from ditzoo.likelihood import coded
from ditzoo.request import Steering, adjusted
from ditzoo.sampling import denoiser_of

if TYPE_CHECKING:
    from ditzoo.assemble import Model


@torch.no_grad()
def invert(
    model: Model,
    pixels: Tensor,
    *,
    class_labels: Any = None,
    prompt: Any = None,
    num_inference_steps: int | None = None,
    guidance_scale: float = 1.0,
) -> Tensor:
    """Return the noise (B, C, *S) that `sample(latents=noise)` makes these pictures of, with the same items, steps and guidance.

    The model's sampler has to be one that can be walked backwards: `euler`, or `ddim` without noise and without clip. Guidance far above
    1 makes steps that cannot be undone; that is told.

    Raises:
        SamplingError: the sampler cannot, the pictures do not fit the model, or a step could not be undone.
    """
    x, items = coded(model, pixels, class_labels=class_labels, prompt=prompt)
    spec = adjusted(model.spec, steps=num_inference_steps, guidance_scale=guidance_scale)
    denoiser = denoiser_of(model, spec, items, Ledger(), Steering())
    for before in spec.sampler.build().invert(denoiser, x, denoiser.schedule, spec.sampling.steps):
        x = before
    return x
