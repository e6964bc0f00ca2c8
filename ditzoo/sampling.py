"""From model to pictures: checks the request, draws noise, walks the sampler, decodes.

Arguments have diffusers' names. Everything is checked before the first evaluation of the network.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ditzoo.denoiser import Denoiser, Ledger, guided
from ditzoo.errors import SamplingError, SamplingWarning, listed, suggest
from ditzoo.given import Given, given_frames
from ditzoo.grid import as_pictures
from ditzoo.model_spec import ModelSpec
from ditzoo.noise import Noise
from ditzoo.request import Steering, adjusted, requested, steered
from ditzoo.room import check_room
from ditzoo.specs import shape

if TYPE_CHECKING:
    from ditzoo.assemble import Model

LARGEST_SEED = 2**63 - 1
BATCH = 64


@dataclass(frozen=True)
class Samples:
    """What `sample` returns: `images` in the asked form, what each was asked for, and what the run has spent.

    Of a video model an image is a clip: a list of frames, or a tensor with an axis of time. `frames` is another name for them.
    """

    images: Any
    items: list[Any]
    captions: list[str]
    seed: int | None
    ledger: Ledger = field(repr=False, default_factory=Ledger)

    @property
    def frames(self) -> Any:
        """The clips, as diffusers' video pipelines call them."""
        return self.images


def sample(
    model: Model,
    *,
    class_labels: Any = None,
    prompt: Any = None,
    items: Sequence[Any] | None = None,
    prompt_2: Any = None,
    prompt_3: Any = None,
    max_sequence_length: int | None = None,
    num_images: int | None = None,
    num_images_per_prompt: int = 1,
    height: int | None = None,
    width: int | None = None,
    num_frames: int | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | Sequence[float] | None = None,
    guidance_rescale: float | None = None,
    negative_class_labels: Any = None,
    negative_prompt: Any = None,
    negative_prompt_2: Any = None,
    negative_prompt_3: Any = None,
    seed: int | None = None,
    first_index: int = 0,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    latents: Tensor | None = None,
    given: Any = None,
    at: str | Sequence[int] = "first",
    batch_size: int | None = None,
    force: bool = False,
    output_type: str = "pil",
    callback_on_step_end: Callable[[int, float, Tensor], object] | None = None,
    count_macs: bool = False,
    **unknown: Any,
) -> Samples:
    """Draw samples from a model.

    Args:
        class_labels, prompt: what to draw, one or a list; which of the two a model takes is its prompt's affair.
        items: what to draw as `Samples.items` tells it, one a picture, in place of either.
        prompt_2, prompt_3: what the second and third text encoder are given, where that is not `prompt`.
        max_sequence_length: how many tokens of a text are read, where that is not as the spec says.
        num_images: how many to draw where nothing was asked for.
        height, width, num_frames: size in pixels; the default is the spec's.
        num_inference_steps, guidance_scale, guidance_rescale: the spec's where None. Scale 1 is no guidance; a list is one a picture.
        negative_class_labels, negative_prompt: what guidance leads away from, one or one a picture, in place of the null prompt;
            `negative_prompt_2` and `negative_prompt_3` go with it as above.
        seed: picture i is drawn from (seed, first_index + i) alone, whatever the batch. Default 0.
        generator: a list, one a picture; or one for all, which draws the batch as diffusers does. Instead of `seed`.
        latents: (B, C, *S) noise to start from; a stochastic sampler still draws from seed or generator.
        given: frames that are known, for all clips or a list a clip: pictures, or (C, n, H, W in [0, 1]), or (B, C, n, H, W).
        at: where they lie: `first`, `last`, `ends` (half at each; a single frame at both, a loop), or the number of each, -1 the last.
        batch_size: how many go through the network at once; at most 64 by default, all where one generator draws for all.
        force: go on where memory is estimated not to suffice for a size that was asked for.
        output_type: `pil` (a clip is a list of frames), `np` (B, *S, C in [0, 1]), `pt` (B, C, *S in [0, 1]) or `latent`.
        callback_on_step_end: called with (step, t, x) after each step of each batch.
        count_macs: count multiply-adds into the ledger.

    Returns:
        `Samples`: images, and what they show.

    Raises:
        SamplingError: the request does not fit the model.
    """
    for name in unknown:
        options = [p for p in inspect.signature(sample).parameters if p not in ("model", "unknown")]
        raise SamplingError(f"sample takes no argument '{name}'{suggest(name, options)}")
    if output_type not in OUTPUTS:
        raise SamplingError(f"no output_type '{output_type}'{suggest(output_type, OUTPUTS)} (one of {listed(OUTPUTS)})")
    if seed is not None and not 0 <= seed <= LARGEST_SEED:
        raise SamplingError(f"seed is {seed}; a seed is a whole number from 0 to 2**63 - 1")
    if batch_size is not None and batch_size < 1:
        raise SamplingError(f"batch_size is {batch_size}; at least 1 is needed")
    whole_scale = guidance_scale if guidance_scale is None or isinstance(guidance_scale, int | float) else None
    sizes = {"height": height, "width": width, "num_frames": num_frames}
    spec = adjusted(model.spec, steps=num_inference_steps, guidance_scale=whole_scale, guidance_rescale=guidance_rescale, **sizes)
    shared, texts = {"max_sequence_length": max_sequence_length}, {"prompt_2": prompt_2, "prompt_3": prompt_3}
    if items is None:
        items = requested(
            spec, class_labels=class_labels, prompt=prompt, num_images=num_images, each=num_images_per_prompt, beside=texts | shared
        )
    steering = steered(
        spec,
        len(items),
        scales=guidance_scale,
        negative_class_labels=negative_class_labels,
        negative_prompt=negative_prompt,
        beside={"prompt_2": negative_prompt_2, "prompt_3": negative_prompt_3},
        shared=shared,
    )
    if remark := spec.backbone.remark(spec.sampler.seen(spec.latent_size())):
        warnings.warn(f"'{spec.name}': {remark}", SamplingWarning, stacklevel=3)
    size = (spec.backbone.in_channels, *spec.latent_size())
    wanted = (len(items), *size)
    if latents is not None and latents.shape != wanted:
        raise SamplingError(f"latents are {shape(latents.shape)}, and {len(items)} samples of '{spec.name}' need {shape(wanted)}")
    step = batch_size or (len(items) if isinstance(generator, torch.Generator) else BATCH)
    if not force:
        check_room(spec, min(step, len(items)), model.device, model.dtype, weights=False)
    codec = spec.codec.build()
    if OUTPUTS[output_type] is not None:
        codec.open()
    known = None if given is None else given_frames(spec, codec, given, at, len(items))
    noise = _noise(generator, seed, range(first_index, first_index + len(items)))
    start = latents if latents is not None else noise.draw(torch.empty(wanted))

    ledger, parts = Ledger(count_macs=count_macs), []
    for lo in range(0, len(items), step):
        rows = slice(lo, lo + step)
        part = noise if noise.shared else Noise(noise.generators[rows])
        begun = start[rows].to(model.device, model.dtype)
        own = None if known is None else known.rows(rows).to(begun)
        for i, (t, x) in enumerate(walk(model, spec, items[rows], begun, part, ledger, steering.rows(rows), own)):
            if callback_on_step_end is not None:
                callback_on_step_end(i, t, x)
        parts.append(x if own is None else own.laid(x))
    result, form = torch.cat(parts), OUTPUTS[output_type]
    images = result if form is None else form((codec.decode(result).float() / 2 + 0.5).clamp(0, 1))
    return Samples(images, list(items), [spec.prompt.caption(item) for item in items], seed if generator is None else None, ledger)


@torch.no_grad()
def walk(
    model: Model,
    spec: ModelSpec,
    items: Sequence[Any],
    x: Tensor,
    noise: Noise,
    ledger: Ledger,
    steering: Steering | None = None,
    given: Given | None = None,
) -> Iterator[tuple[float, Tensor]]:
    """Yield (t, x) after each step of one batch, from noise x (B, C, *S) to data."""
    sampler = spec.sampler.build()
    denoiser = sampler.prepare(denoiser_of(model, spec, items, ledger, steering or Steering(), given))
    schedule = denoiser.schedule
    times = schedule.times(spec.sampling.steps)
    if len(times) != spec.sampling.steps + 1 or not bool((times.diff() < 0).all()):
        shown = ", ".join(f"{float(t):.4g}" for t in times[:6])
        raise SamplingError(
            f"schedule '{spec.schedule.kind}' gives {len(times)} times for {spec.sampling.steps} steps, {shown} ...; one more than steps, "
            f"falling strictly, are due: 'ditzoo check' tells what its plugin breaks, or choose another schedule.spacing"
        )
    start = schedule.start(x, times[0])
    for t, after in zip(times[1:], sampler.trajectory(denoiser, start, schedule, spec.sampling.steps, noise), strict=True):
        yield float(t), after


def denoiser_of(
    model: Model, spec: ModelSpec, items: Sequence[Any], ledger: Ledger, steering: Steering, given: Given | None = None
) -> Denoiser:
    """Return what predicts from x for these items, guided as spec and request say."""
    scales = None if steering.scales is None else torch.tensor(steering.scales, dtype=torch.float64)
    null = None
    if scales is not None or spec.guidance.scale != 1:
        null = model.prompt.null(len(items)) if steering.negative is None else model.prompt.encode(steering.negative)
    branches = guided(model.prompt.encode(items), null, spec.guidance, scales)
    schedule = spec.schedule.at(spec.latent_size()).build()
    backbone = model.backbone if ledger.count_macs else model.runner  # multiply-adds are those of the plain modules
    steps = None if torch.is_grad_enabled() else spec.sampling.steps
    return Denoiser(backbone, schedule, branches, ledger=ledger, rescale=spec.guidance.rescale, given=given, steps=steps)


def _array(pixels: Tensor) -> Any:
    return pixels.movedim(1, -1).cpu().numpy()


# what becomes of pixels (B, 3 or 1, *S) in [0, 1]; None: the latents are wanted, and nothing is decoded
OUTPUTS: dict[str, Callable[[Tensor], Any] | None] = {
    "pil": lambda pixels: as_pictures((pixels * 255).round().to(torch.uint8)),
    "np": _array,
    "pt": lambda pixels: pixels,
    "latent": None,
}


def _noise(generator: Any, seed: int | None, indices: range) -> Noise:
    if generator is None:
        return Noise.seeded(seed or 0, indices)
    if seed is not None:
        raise SamplingError("give a seed or a generator, not both")
    if isinstance(generator, torch.Generator):
        return Noise([generator], shared=True)
    if len(generator) != len(indices):
        raise SamplingError(f"{len(generator)} generators for {len(indices)} samples; give one a sample, or a single one")
    return Noise(list(generator))
