"""Times of single frames in a step of training: of some clips frames are given, of some the times rise from the first to the last.

What is given stays clean, at its own time 0, and its errors do not count. So one network learns to go on from first frames, to lead up to
last ones, to fill in between, and all else that a mask says; and, from rising times, to be rolled along (Ruhe et al. 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ditzoo.interfaces import Schedule
from ditzoo.packing import Packing
from ditzoo.training.objective import weights

if TYPE_CHECKING:
    from ditzoo.training.tables import Objective

GIVEN = -1.0  # in place of a uniform number
MOST = 1 - 2.0**-30

# which of `order`, a permutation of the frames, are given when so many are
Pattern = Callable[[int, list[int]], Sequence[int]]


def _ends(count: int, order: list[int]) -> Sequence[int]:
    first = -(-count // 2)
    return [*range(first), *range(len(order) - max(count - first, 1), len(order))] if len(order) > 2 else [0]


PATTERNS: dict[str, Pattern] = {
    "first": lambda count, order: range(count),
    "last": lambda count, order: range(len(order) - count, len(order)),
    "ends": _ends,
    "scattered": lambda count, order: order[:count],
}


def drawn_frames(objective: Objective, times: Tensor, lengths: Sequence[int], generator: torch.Generator) -> list[Tensor]:
    """Draw a number for each frame, (T,) float64 a clip: the clip's own of `times` (B,), another where times rise, or `GIVEN`.

    How many are given is log-uniform over 1 to T - 1; which is one of `PATTERNS`, each as often.
    """
    found = []
    for own, length in zip(times.tolist(), lengths, strict=True):
        whether, which, many = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        order, numbers = torch.randperm(length, generator=generator).tolist(), torch.full((length,), own, dtype=torch.float64)
        if length > 1 and whether < objective.given:
            pattern = list(PATTERNS.values())[int(which * len(PATTERNS))]
            numbers[list(pattern(int(length**many), order))] = GIVEN
        elif length > 1 and whether < objective.given + objective.rising:
            numbers = risen(many if which < 0.5 else (2 * length - 1) * many - length + 1, length)
        found.append(numbers)
    return found


def risen(done: float, length: int) -> Tensor:
    """Return the numbers (T,) of a window of `length` frames after `done` of them: each frame is one of `length` parts behind the next.

    From 0 to 1 the window is in its midst; before that it begins, with noise at its end, and after it ends, with data at its beginning.
    """
    numbers = (torch.arange(1, length + 1, dtype=torch.float64) - done) / length
    return torch.where(numbers > 0, numbers.clamp(max=MOST), GIVEN)


class Times(NamedTuple):
    """The times of a step: what the network is told, those of the noise in its rows, and what their errors are taken at and count."""

    told: Tensor  # (B,), or of frames (B, T), of a pack (F,)
    noise: Tensor  # (R,) or (R, T)
    errors: Tensor  # likewise; of a given frame, whose errors do not count, any time at which there is one
    weights: Tensor  # (R,) float32, what a row's squared error weighs
    counts: Tensor | None  # (R, 1, T, 1, ...) float32, what its elements count beside


def times_of(
    schedule: Schedule, time: Tensor, frames: Tensor | None, packing: Packing | None, rank: int, objective: Objective | None
) -> Times:
    """Return the times of items from their uniform numbers (B,), and those of frames: (B, T), or of a pack (F,) for the frames of all.

    A row is an item, or of a pack a patch; `rank` is the number of its axes.
    """
    own = schedule.draw(time)
    clip = None if packing is None else packing.clip_of_token(own.device)
    if frames is None:
        t = own if clip is None else own[clip]
        return Times(own, t, t, _weights(schedule, t, objective), None)
    lengths = [frames.shape[-1]] * len(own)
    if packing is not None:
        spans = len(frames) // sum(grid[0] for grid in packing.grids)
        lengths = [grid[0] * spans for grid in packing.grids]
    flat, each = frames.flatten(), own.repeat_interleave(torch.tensor(lengths))  # (F,) both
    kept, drawn = flat < 0, schedule.draw(flat.clamp(min=0))
    told, errors = drawn.where(~kept, 0.0), torch.where(kept, each, drawn)
    shares = torch.stack([part.double().mean() for part in (~kept).split(lengths)])
    counts = ~kept / shares.repeat_interleave(torch.tensor(lengths)) * _weights(schedule, errors, objective)
    noise, errors, counts = (
        values.view(frames.shape) if packing is None else packing.at_tokens(values.view(-1, spans)) for values in (told, errors, counts)
    )
    laid = counts.reshape(len(counts), 1, -1, *[1] * (rank - 3)).float()
    return Times(told.view(frames.shape), noise, errors, torch.ones(len(laid)), laid)


def _weights(schedule: Schedule, t: Tensor, objective: Objective | None) -> Tensor:
    return (torch.ones_like(t) if objective is None else weights(schedule, t, objective)).float()
