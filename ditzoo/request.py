"""A request for samples, checked against a spec before torch is imported: sizes, steps, guidance, what to draw."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from ditzoo.errors import SamplingError, explain
from ditzoo.model_spec import ModelSpec


def adjusted(
    spec: ModelSpec,
    *,
    steps: int | None = None,
    guidance_scale: float | None = None,
    height: int | None = None,
    width: int | None = None,
    num_frames: int | None = None,
) -> ModelSpec:
    """Return the spec with a request laid over it, its contracts checked anew; raise `SamplingError` if one breaks."""
    asked = {"steps": steps, "height": height, "width": width, "num_frames": num_frames}
    sampling = {name: value for name, value in asked.items() if value is not None}
    if not sampling and guidance_scale is None:
        return spec
    fields = {name: getattr(spec, name) for name in type(spec).model_fields}
    fields["sampling"] = spec.sampling.model_dump() | sampling
    if guidance_scale is not None:
        fields["guidance"] = spec.guidance.model_dump() | {"scale": guidance_scale}
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
) -> list[Any]:
    """Return what to draw, one item a picture, as the spec's prompt understands it.

    `class_labels` or `prompt` is one or a list, each drawn `each` times; `num_images` repeats or cuts the list to that many.
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
        return [item for item in spec.prompt.default(num_images or spec.sampling.samples) for _ in range(each)]
    asked = asked.tolist() if hasattr(asked, "tolist") else asked
    asked = list(asked) if isinstance(asked, list | tuple | range) else [asked]
    if not asked:
        raise SamplingError(f"{argument} is empty; name at least one")
    items = spec.prompt.parse(asked)
    if num_images is not None:
        items = [items[index % len(items)] for index in range(num_images)]
    return [item for item in items for _ in range(each)]
