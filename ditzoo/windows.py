"""Clips longer than a window of frames: drawn window by window, each knowing the end of what there is already.

Memory is that of one window, and no window has more frames than the network was trained on. Frames that a codec makes several of are
refused, as given frames are.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ditzoo.errors import SamplingError
from ditzoo.placing import placed
from ditzoo.request import adjusted

if TYPE_CHECKING:
    from ditzoo.assemble import Model
    from ditzoo.model_spec import ModelSpec
    from ditzoo.sampling import Samples

STRIDE = 1_000_003  # from a window's seed to the next one's, so that clips of neighbouring seeds share no noise
UNTIMELY = ("latents", "generator")  # the noise of one whole clip


def stretches(spec: ModelSpec, window: int, overlap: int | None = None, *, num_frames: int | None = None) -> list[range]:
    """Return the frames of each window: all of `window` frames, sharing at least `overlap` with the one before, the last at the clip's end.

    Args:
        spec: the model; it has to take given frames, and a window has to be a number of frames that it draws.
        window: frames drawn at once.
        overlap: frames that a window knows of the one before; a quarter of the window where None.
        num_frames: frames of the clip; the spec's where None.

    Raises:
        SamplingError: the model, the window or the overlap does not serve.
    """
    total = num_frames or spec.pixel_size()[0]
    known = max(window // 4, 1) if overlap is None else overlap
    if len(spec.pixel_size()) < 3:
        raise SamplingError(f"a window is of clips, and '{spec.name}' draws pictures; leave it out")
    if not 0 < window < total:
        raise SamplingError(f"a window of {window} frames for a clip of {total}; give fewer than the clip has, or leave the window out")
    if not 0 < known < window:
        raise SamplingError(f"windows of {window} frames cannot share {known}; give an overlap from 1 to {window - 1}")
    within = adjusted(spec, num_frames=window)
    placed(within, known, within.pixel_size()[1:], "first")
    return [range(start, start + window) for start in spread(total, window, known)]


def spread(total: int, window: int, shared: int) -> list[int]:
    """Return where windows on an axis of `total` begin, each two sharing at least `shared`, the last at the end of the axis."""
    return [*range(0, total - window, window - shared), total - window]


def sample_windows(
    model: Model,
    *,
    window: int,
    overlap: int | None = None,
    num_frames: int | None = None,
    seed: int | None = None,
    output_type: str = "pil",
    **request: Any,
) -> Samples:
    """Draw clips of `num_frames` frames, `window` at a time; the other arguments are those of `ditzoo.sampling.sample`.

    Clip i depends on (seed, i) and the windows alone. Frames given with `at="first"` begin the clip.

    Raises:
        SamplingError: as `stretches` and `sample` do, and for what is of one whole clip: `latents`, `generator`, frames given elsewhere.
    """
    import torch

    from ditzoo.sampling import OUTPUTS, sample

    for name in UNTIMELY:
        if request.get(name) is not None:
            raise SamplingError(f"{name} is of a whole clip, and a window is asked for; give a seed, or leave the window out")
    if request.get("at", "first") != "first":
        raise SamplingError(f"at={request['at']!r} with a window: a clip goes on from frames at its start; give at='first'")
    form = OUTPUTS.get(output_type)
    if form is None:
        raise SamplingError(f"output_type '{output_type}' with a window; clips are put together of frames: give one of pil, np, pt")
    spans = stretches(model.spec, window, overlap, num_frames=num_frames)
    seed = seed or 0
    drawn = sample(model, num_frames=window, seed=seed, output_type="pt", **request)
    clip, ledger = drawn.images, drawn.ledger
    request = {name: value for name, value in request.items() if name not in ("given", "at")}
    for number, (before, span) in enumerate(pairwise(spans), 1):
        shared = before.stop - span.start
        own = (seed + number * STRIDE) % 2**63
        more = sample(model, num_frames=window, seed=own, output_type="pt", given=clip[:, :, -shared:], **request)
        clip = torch.cat([clip, more.images[:, :, shared:]], dim=2)
        ledger = ledger.beside(more.ledger)
    return replace(drawn, images=form(clip), seed=seed, ledger=ledger)
