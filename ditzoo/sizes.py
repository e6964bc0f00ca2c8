"""What specs of transformers over patches check alike: sizes by name, heads that divide the width, patches that divide the latent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ditzoo.parts import shape


class Dimensions(NamedTuple):
    """What a named size stands for."""

    width: int
    depth: int
    heads: int


def filled(data: Any, sizes: Mapping[str, Dimensions]) -> Any:
    """Return a spec's data with width, depth and heads of its named `size`, if it has one; a field that is given wins over it."""
    if isinstance(data, Mapping) and data.get("size") in sizes:
        return sizes[data["size"]]._asdict() | dict(data)
    return data


def check_width(width: int, heads: int) -> None:
    """Raise `ValueError` unless heads divide the width, and 4, as a sine-cosine table over rows and columns needs."""
    if width % heads:
        down, up = width // heads * heads, -(-width // heads) * heads
        raise ValueError(f"width={width} is not divisible by heads={heads}; nearest widths: {down or up}, {up}")
    if width % 4:
        raise ValueError(f"width={width} is not divisible by 4, as a sine-cosine table over rows and columns needs")


def check_picture(size: Sequence[int]) -> None:
    """Raise `ValueError` unless a latent size is that of a picture."""
    if len(size) != 2:
        raise ValueError(f"input_size of an image backbone is (height, width), found {shape(size)}")


def unpatched(size: Sequence[int], patch: int | Sequence[int]) -> str | None:
    """Say that a patch, one side or a side an axis, does not divide a latent, and which latent is near; None if it does."""
    sides = [patch] * len(size) if isinstance(patch, int) else patch
    if all(extent > 0 and extent % side == 0 for extent, side in zip(size, sides, strict=True)):
        return None
    near = [max(side, round(extent / side) * side) for extent, side in zip(size, sides, strict=True)]
    told = patch if isinstance(patch, int) else shape(patch)
    return f"patch={told} does not divide the latent {shape(size)}; nearest latent: {shape(near)}"
