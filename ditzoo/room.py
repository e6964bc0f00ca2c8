"""Whether a run fits into memory, estimated before it starts: what the network holds at its peak at the size that was asked for."""

from __future__ import annotations

import torch

from ditzoo.cards import figures_of
from ditzoo.errors import SamplingError
from ditzoo.machine import available_bytes
from ditzoo.model_spec import ModelSpec
from ditzoo.specs import shape

FP32 = 4  # bytes; figures are told in it
LEAST = 8  # tokens' worth of activations that any block holds: those that come in, queries, keys, values, the MLP's hidden channels


def free_bytes(device: torch.device) -> int | None:
    """Return how much memory a device has free; None where nobody tells."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_bytes()


def bytes_a_picture(spec: ModelSpec, free: float = float("inf")) -> int:
    """Return the bytes of fp32 activations of a look at one picture or clip, both branches where it is guided, from a meta build.

    A size whose tokens alone are beyond `free` is not built, for its positions would not fit either: the bytes are then the least.
    """
    branches = 1 if spec.guidance.scale == 1 else 2
    if "packs" in spec.backbone.provides_now:
        least = spec.backbone.tokens_of(spec.sampler.seen(spec.latent_size())) * spec.backbone.width * LEAST * FP32 * branches
        if least > free:
            return least
    return figures_of(spec, None).activation_bytes * branches


def check_room(spec: ModelSpec, batch: int, device: torch.device, dtype: torch.dtype, *, weights: bool) -> None:
    """Raise `SamplingError` where a look at `batch` pictures of a size that was asked for is estimated not to fit into what is free.

    `weights` says that they have yet to be loaded, and need room too.
    """
    free = free_bytes(device)
    if free is None or spec.sampling.height is spec.sampling.width is spec.sampling.num_frames is None:
        return  # models are shipped at sizes that are run
    share = dtype.itemsize / FP32
    each = bytes_a_picture(spec, free / share) * share
    held = figures_of(spec, None).weight_bytes * share if weights and each <= free else 0.0
    if held + batch * each <= free:
        return
    fitting = int((free - held) // each)
    way_out = f"set batch_size={fitting}" if fitting >= 1 else "draw smaller or shorter ones"
    raise SamplingError(
        f"'{spec.name}' at {shape(spec.pixel_size())} takes about {(held + batch * each) / 1e9:.1f} GB for {batch} at once, and "
        f"{free / 1e9:.1f} GB are free; {way_out}, or go on in spite of it: --force"
    )
