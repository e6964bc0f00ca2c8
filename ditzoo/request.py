"""A request for samples, checked against a spec before torch is imported: sizes, steps, guidance, what to draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from ditzoo.errors import SamplingError, explain, listed
from ditzoo.model_spec import ModelSpec


def adjusted(
    spec: ModelSpec,
    *,
    steps: int | None = None,
    guidance_scale: float | None = None,
    guidance_rescale: float | None = None,
    height: int | None = None,
    width: int | None = None,
    num_frames: int | None = None,
    fps: float | None = None,
) -> ModelSpec:
    """Return the spec with a request laid over it, its contracts checked anew; raise `SamplingError` if one breaks."""
    asked = {"steps": steps, "height": height, "width": width, "num_frames": num_frames, "fps": fps}
    sampling = {name: value for name, value in asked.items() if value is not None}
    guidance = {name: value for name, value in (("scale", guidance_scale), ("rescale", guidance_rescale)) if value is not None}
    if not sampling and not guidance:
        return spec
    fields = {name: getattr(spec, name) for name in type(spec).model_fields}
    fields["sampling"] = spec.sampling.model_dump() | sampling
    fields["guidance"] = spec.guidance.model_dump() | guidance
    try:
        return type(spec).model_validate(fields)
    except ValidationError as error:
        raise SamplingError(str(explain(error, spec.name))) from error


def requested(
    spec: ModelSpec,
    *,
    class_labels: Any = None,
    prompt: Any = None,
    num_images: int | None = None,
    each: int = 1,
    beside: Mapping[str, Any] | None = None,
) -> list[Any]:
    """Return what to draw, one item a picture, as the spec's prompt understands it.

    `class_labels` or `prompt` is one or a list, each drawn `each` times; `num_images` repeats or cuts the list to that many. `beside` are
    arguments that go with it, as `prompt_2` or `max_sequence_length`: one for all, or one each; None where they are not given.
    """
    argument = spec.prompt.argument
    for name, value in (("class_labels", class_labels), ("prompt", prompt)):
        if value is not None and argument != name:
            takes = f"takes {argument}" if argument else "takes no prompt; say how many with num_images"
            raise SamplingError(f"'{spec.name}' {takes}, found {name}={value!r}")
    for count in (each, num_images):
        if count is not None and count < 1:
            raise SamplingError(f"{count} samples asked of '{spec.name}'; at least 1 is needed")
    asked = class_labels if class_labels is not None else prompt
    if asked is None:
        tabled(spec, [], beside or {})
        return [item for item in spec.prompt.default(num_images or spec.sampling.samples) for _ in range(each)]
    asked = asked.tolist() if hasattr(asked, "tolist") else asked
    asked = list(asked) if isinstance(asked, list | tuple | range) else [asked]
    if not asked:
        raise SamplingError(f"{argument} is empty; name at least one")
    items = spec.prompt.parse(tabled(spec, asked, beside or {}))
    if num_images is not None:
        items = [items[index % len(items)] for index in range(num_images)]
    return [item for item in items for _ in range(each)]


def tabled(spec: ModelSpec, asked: list[Any], beside: Mapping[str, Any], *, prefix: str = "") -> list[Any]:
    """Lay arguments that go with what is asked beside it, a table each; what is asked itself where none is given."""
    given = {name: value for name, value in beside.items() if value is not None}
    columns: dict[str, list[Any]] = {}
    for name, value in given.items():
        if name not in spec.prompt.beside:
            takes = f"; it takes {listed(spec.prompt.beside)}" if spec.prompt.beside else ""
            raise SamplingError(f"'{spec.name}' takes no {prefix}{name}, found {value!r}{takes}")
        if not asked:
            raise SamplingError(f"{prefix}{name} goes with {prefix}{spec.prompt.argument}, which is not given; give both")
        columns[name] = list(value) if isinstance(value, list | tuple) else [value]
        if len(columns[name]) not in (1, len(asked)):
            raise SamplingError(
                f"{len(columns[name])} of {prefix}{name} for {len(asked)} of {prefix}{spec.prompt.argument}; give one each, or a single one"
            )
    if not columns:
        return asked
    rows = [dict(item) if isinstance(item, Mapping) else {str(spec.prompt.argument): item} for item in asked]
    return [row | {name: values[i % len(values)] for name, values in columns.items()} for i, row in enumerate(rows)]


@dataclass(frozen=True)
class Steering:
    """Guidance of a request beyond the spec's: a scale a picture, and an item a picture to lead away from in place of the null prompt."""

    scales: tuple[float, ...] | None = None
    negative: tuple[Any, ...] | None = None

    def rows(self, index: slice) -> Steering:
        return Steering(self.scales and self.scales[index], self.negative and self.negative[index])


def steered(
    spec: ModelSpec,
    count: int,
    *,
    scales: Any = None,
    negative_class_labels: Any = None,
    negative_prompt: Any = None,
    beside: Mapping[str, Any] | None = None,
    shared: Mapping[str, Any] | None = None,
) -> Steering:
    """Check what a request says of guidance, for `count` pictures; raise `SamplingError` with both numbers where they do not match.

    `beside` are arguments that go with the negative prompt, named as those of the prompt; `shared` those that bear on both, and so on the
    empty prompt too.
    """
    argument = f"negative_{spec.prompt.argument}" if spec.prompt.argument else None
    for name, value in (("negative_class_labels", negative_class_labels), ("negative_prompt", negative_prompt)):
        if value is not None and argument != name:
            raise SamplingError(f"'{spec.name}' takes {argument or 'no prompt, and so no negative one'}, found {name}={value!r}")
    each = None
    if scales is not None and not isinstance(scales, int | float):
        each = tuple(float(scale) for scale in (scales.tolist() if hasattr(scales, "tolist") else scales))
        if len(each) != count:
            raise SamplingError(f"{len(each)} guidance scales for {count} samples; give one a sample, or a single one")
        if min(each) < 0:
            raise SamplingError(f"guidance scale {min(each):g} is below 0; 1 is no guidance, and more is more")
        if "null" not in spec.prompt.provides_now:
            raise SamplingError(f"guidance needs a null prompt, and prompt '{spec.prompt.kind}' of '{spec.name}' as declared has none")
    asked = negative_class_labels if negative_class_labels is not None else negative_prompt
    beside, shared = dict(beside or {}), {name: value for name, value in (shared or {}).items() if value is not None}
    guided = each is not None or spec.guidance.scale != 1
    if asked is None and guided and shared:
        asked = ""
    if asked is None:
        tabled(spec, [], beside, prefix="negative_")
        return Steering(each)
    if each is None and spec.guidance.scale == 1:
        raise SamplingError(f"{argument} without guidance says nothing; set guidance_scale above 1")
    asked = asked.tolist() if hasattr(asked, "tolist") else asked
    away = list(asked) if isinstance(asked, list | tuple | range) else [asked]
    negative = spec.prompt.parse(tabled(spec, away, beside | shared, prefix="negative_"))
    if len(negative) not in (1, count):
        raise SamplingError(f"{len(negative)} items of {argument} for {count} samples; give one a sample, or a single one")
    return Steering(each, tuple(negative * (count if len(negative) == 1 else 1)))
