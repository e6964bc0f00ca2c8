"""Where given frames lie in a clip: the words for it, and what is refused. Imports no torch.

Image-to-video, extension forward and backward, interpolation and loops are places of given frames and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ditzoo.errors import SamplingError, listed, suggest
from ditzoo.specs import shape

if TYPE_CHECKING:
    from ditzoo.model_spec import ModelSpec

Places = dict[int, int]  # the number of a given frame by the place in the clip where it lies


def _first(count: int, total: int) -> Places:
    return {place: place for place in range(count)}


def _last(count: int, total: int) -> Places:
    return {total - count + number: number for number in range(count)}


def _ends(count: int, total: int) -> Places:
    """Return half of the frames at each end; a single one lies at both, and the clip is a loop."""
    first = -(-count // 2)
    return _first(first, total) | {total - 1 - back: count - 1 - back for back in range(max(count - first, 1))}


WORDS: Mapping[str, Callable[[int, int], Places]] = {"first": _first, "last": _last, "ends": _ends}


def placed(spec: ModelSpec, count: int, size: Sequence[int], at: str | Sequence[int]) -> Places:
    """Return where `count` given frames of `size` (H, W) lie in a clip of a model: `at` is a word, or a place for each, -1 the last.

    Raises `SamplingError` for a model that takes none, and for what leaves nothing given, nothing to draw, or does not fit.
    """
    if "frame-times" not in spec.backbone.provides_now:
        raise SamplingError(
            f"'{spec.name}' draws whole clips and takes no given frames: its backbone has one time for all frames; train one "
            f"with backbone.frame_times=true and objective.given above 0"
        )
    if "windows" in spec.sampler.provides_now:
        raise SamplingError(f"sampler '{spec.sampler.kind}' draws a clip by windows and takes no given frames; choose another, as euler")
    total, *sides = spec.pixel_size()
    if spec.latent_size()[0] != total:
        raise SamplingError(f"codec '{spec.codec.kind}' codes several frames as one, and single frames cannot be given to it")
    if count < 1:
        raise SamplingError("no frames are given; give at least one, or leave given out")
    if tuple(size) != tuple(sides):
        raise SamplingError(
            f"given frames are {shape(size)} and the clip is {shape(sides)}; set height={size[0]} width={size[1]}, or resize them"
        )
    places = _worded(at, count, total) if isinstance(at, str) else _numbered(at, count, total)
    if len(places) >= total or count > total:
        raise SamplingError(f"{count} given frames leave nothing to draw of a clip of {total}; ask for more: num_frames={count + total}")
    return places


def numbered(text: str) -> list[int]:
    """Read places as `0,5,-1`; raise `SamplingError` for what is neither a number nor a word."""
    try:
        return [int(one) for one in text.split(",")]
    except ValueError:
        raise SamplingError(
            f"no place '{text}' for given frames{suggest(text, WORDS)}; one of {listed(WORDS)}, or the number of each frame"
        ) from None


def _worded(at: str, count: int, total: int) -> Places:
    return WORDS[at](count, total) if at in WORDS else _numbered(numbered(at), count, total)


def _numbered(at: Sequence[int], count: int, total: int) -> Places:
    if len(at) != count:
        raise SamplingError(f"{len(at)} places for {count} given frames; name one for each")
    for place in at:
        if not -total <= place < total:
            raise SamplingError(f"place {place} lies outside a clip of {total} frames; places go from 0 to {total - 1}, or back from -1")
    places = {place % total: number for number, place in enumerate(at)}
    if len(places) < count:
        raise SamplingError(f"two given frames are at one place: {listed([str(place) for place in at])}; name each place once")
    return places
