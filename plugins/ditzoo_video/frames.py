"""Times of single frames: what a frame's tokens are told of its time, beside the time of its clip.

Shapes: K clips, F frames of all of them together, N tokens of all of them together, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ditzoo.layers import zero_linear
from ditzoo.packing import Packing, numbered


class FrameTimes(nn.Module):
    """A linear layer over (embedded time of a frame - that of its clip), side by side for the frames that a token spans; it begins at zero.

    A clip's time is the largest of its frames', so where all are alike nothing is added.
    """

    def __init__(self, width: int, spans: int) -> None:
        super().__init__()
        self.spans = spans
        self.linear = nn.Linear(spans * width, width, bias=False)
        zero_linear(self.linear)

    def forward(self, embed: Callable[[Tensor], Tensor], times: Tensor, grids: Sequence[tuple[int, ...]]) -> Tensor:
        """Return what is added to the tokens, (N, D), from times (F,) of the frames of clips that have such grids of tokens."""
        lengths = [grid[0] * self.spans for grid in grids]
        apart = embed(times) - embed(clip_times(times, lengths))[numbered(tuple(lengths), times.device)]  # (F, D)
        told = self.linear(apart.unflatten(0, (-1, self.spans)).flatten(1))  # (F / spans, D)
        return Packing(tuple(grids)).at_tokens(told)


def clip_times(times: Tensor, lengths: Sequence[int]) -> Tensor:
    """Return the time of each clip (K,) whose frames have times (F,): that of its noisiest frame."""
    return torch.stack([part.max() for part in times.split(list(lengths))])
