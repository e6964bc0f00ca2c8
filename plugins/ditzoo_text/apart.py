"""The loss `words-apart`: a hinge on how far the vectors of single words are from one another."""

from __future__ import annotations

import torch
from torch import Tensor

from ditzoo.interfaces import Loss, Passage


class WordsApart(Loss):
    """The mean over words of the sum over the others of max(0, margin - distance / mean distance)^2, which no scale changes."""

    depths = ()

    def __init__(self, margin: float, words: int) -> None:
        super().__init__()
        self.margin, self.words = margin, words

    def forward(self, passage: Passage) -> Tensor:
        """Return the same for every row, (B,)."""
        vectors = passage.prompt.encode([(word,) for word in range(self.words)]).vec
        assert vectors is not None, "text-tokens has vectors"
        vectors = vectors.float()
        pairs = torch.triu_indices(self.words, self.words, 1, device=vectors.device)
        apart = (vectors[pairs[0]] - vectors[pairs[1]]).square().sum(1).clamp(min=1e-12).sqrt()
        near = (self.margin - apart / apart.mean()).clamp(min=0).square()
        return (2 * near.sum() / self.words).expand(len(passage.out))
