"""Contracts between the parts of a model, checked before torch is imported or a byte is fetched.

Each check is a function of the model spec that yields problems: the path of the field, and a sentence with both
values and a way out. They speak of contracts (latent, grid, prompt, prediction, capabilities) and of no kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from ditzoo.errors import SamplingError, listed

if TYPE_CHECKING:
    from ditzoo.model_spec import ModelSpec

Problem = tuple[str, str]


def check_latent(spec: ModelSpec) -> Iterator[Problem]:
    """The codec's latent is the one that the backbone takes and that the weights were trained on."""
    codec, backbone = spec.codec, spec.backbone
    if codec.channels != backbone.in_channels:
        yield (
            "codec.channels",
            (
                f"codec '{codec.kind}' makes {codec.channels}-channel latents and backbone '{backbone.kind}' takes "
                f"{backbone.in_channels}; set codec.channels={backbone.in_channels} or backbone.in_channels={codec.channels}"
            ),
        )
        return
    if spec.weights is None:
        return
    trained, found = spec.weights.latent, codec.latent()
    for name in type(trained).model_fields:
        if getattr(found, name) != getattr(trained, name):
            yield (
                f"codec.{name}",
                (
                    f"codec.{name}={getattr(found, name):g} but the weights were trained on latents with "
                    f"{name} {getattr(trained, name):g}; set codec.{name}={getattr(trained, name):g}"
                ),
            )


def check_grid(spec: ModelSpec) -> Iterator[Problem]:
    """The size asked for can be coded, and the backbone's position table can serve its latent, or what the sampler shows of it at once."""
    try:
        size = spec.latent_size()
    except (ValueError, SamplingError) as error:
        yield "sampling", str(error)
        return
    if problem := spec.backbone.check_size(spec.sampler.seen(size)):
        yield "sampling", f"{problem}"


def check_prediction(spec: ModelSpec) -> Iterator[Problem]:
    """Schedule and weights agree on the path, on what the network predicts and on the times it knows."""
    if spec.weights is None:
        return
    trained, found = spec.weights.schedule, spec.schedule
    if found.kind != trained.kind:
        yield (
            "schedule.kind",
            (
                f"schedule '{found.kind}' ({found.family}, predicts {found.prediction}) does not fit these weights, which were "
                f"trained under '{trained.kind}' ({trained.family}, predicts {trained.prediction}); set schedule.kind={trained.kind}"
            ),
        )
        return
    for name in type(trained).model_fields:
        ours, theirs = getattr(found, name), getattr(trained, name)
        if ours != theirs and name not in found.free_fields:
            yield f"schedule.{name}", (f"schedule.{name}={ours} but the weights were trained with {theirs}; set schedule.{name}={theirs}")


def check_steps(spec: ModelSpec) -> Iterator[Problem]:
    """A discrete schedule cannot be walked in more steps than it has, nor can a sampler have an order beyond its steps."""
    if problem := spec.sampler.check_steps(spec.sampling.steps):
        yield "sampler", problem
    most = spec.schedule.max_steps
    if most is not None and spec.sampling.steps > most:
        yield (
            "sampling.steps",
            (
                f"{spec.sampling.steps} steps asked of schedule '{spec.schedule.kind}', which has {most}; "
                f"set sampling.steps to at most {most}"
            ),
        )


def check_guidance(spec: ModelSpec) -> Iterator[Problem]:
    """Guidance needs a null prompt, and no more channels than the latent has."""
    scale, channels = spec.guidance.scale, spec.guidance.channels
    if scale != 1 and "null" not in spec.prompt.provides_now:
        yield (
            "guidance.scale",
            (
                f"guidance.scale={scale:g} needs a null prompt, and prompt '{spec.prompt.kind}' as declared has none; "
                f"set guidance.scale=1, or train with a prompt that has one"
            ),
        )
    if channels != "all" and channels > spec.backbone.in_channels:
        yield (
            "guidance.channels",
            (
                f"guidance.channels={channels} but latents have {spec.backbone.in_channels}; "
                f"set guidance.channels={spec.backbone.in_channels} or 'all'"
            ),
        )


def check_exits(spec: ModelSpec) -> Iterator[Problem]:
    """Exits lie before the last block, and not where the backbone has its own."""
    if spec.exits is None:
        return
    depth, own = spec.backbone.depth, spec.backbone.exits
    for at in spec.exits.at:
        if at >= depth:
            yield "exits.at", f"exits.at names {at} and backbone.depth={depth}; exits lie before the last block: at most {depth - 1}"
        elif at in own:
            yield "exits.at", f"exits.at names {at}, where backbone '{spec.backbone.kind}' has an exit of its own; leave it out"


def check_frame_times(spec: ModelSpec) -> Iterator[Problem]:
    """The time of a clip is the largest of its frames', so it has to be that of the noisiest."""
    if "frame-times" in spec.backbone.provides_now and "falling-time" in spec.schedule.provides_now:
        yield (
            "schedule",
            (
                f"backbone '{spec.backbone.kind}' has a time a frame, the largest of which speaks for the clip, and schedule "
                f"'{spec.schedule.kind}' tells noise the smallest; set schedule.time_reversed=false, or backbone.frame_times=false"
            ),
        )


def check_parts(spec: ModelSpec) -> Iterator[Problem]:
    """A part may ask more of the model than capabilities say."""
    for slot, part in (("conditioning", spec.conditioning), ("prompt", spec.prompt), ("sampler", spec.sampler)):
        if problem := part.check(spec):
            yield slot, problem


def check_capabilities(spec: ModelSpec) -> Iterator[Problem]:
    """What one part requires, some other part provides."""
    for slot, part in spec.parts.items():
        others = {name: other for name, other in spec.parts.items() if name != slot}
        offered = frozenset[str]().union(*(other.provides_now for other in others.values()))
        for missing in sorted(part.requires_now - offered):
            yield (
                f"{slot}.kind",
                (
                    f"{slot} '{part.kind}' requires '{missing}', which none of the other parts provides "
                    f"({', '.join(f'{name} {other.kind}' for name, other in others.items())} "
                    f"provide {listed(sorted(offered))}); choose another {slot} or a part that provides it"
                ),
            )


CHECKS = (
    check_latent,
    check_grid,
    check_prediction,
    check_steps,
    check_guidance,
    check_exits,
    check_frame_times,
    check_parts,
    check_capabilities,
)


def problems(spec: ModelSpec) -> list[Problem]:
    """Return every broken contract of a composition as (path, sentence)."""
    return [problem for check in CHECKS for problem in check(spec)]


def refuse(spec: ModelSpec) -> None:
    """Raise pydantic's error with all problems at their paths, if there are any."""
    found = problems(spec)
    if found:
        raise ValidationError.from_exception_data(
            spec.name,
            [
                InitErrorDetails(
                    type=PydanticCustomError("ditzoo", "{sentence}", {"sentence": sentence}), loc=tuple(path.split(".")), input=None
                )
                for path, sentence in found
            ],
        )
