"""What a run trains: the model and the extra losses beside it, as one module, called once a step.

One call a step, through one module, lets the wrappers of several processes see every parameter and every gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ditzoo.assemble import Model
from ditzoo.interfaces import Loss


class Trainee(nn.Module):
    """A model, extra losses, and in how many parts the blocks' activations are computed anew in the backward pass (0 keeps all)."""

    def __init__(self, model: Model, losses: Sequence[Loss] = (), segments: int = 0) -> None:
        super().__init__()
        self.model = model
        self.losses = nn.ModuleList(losses)
        self.depths = [loss.depth for loss in losses]
        self.segments = segments

    def forward(self, x: Tensor, t: Tensor, items: Sequence[object], pixels: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Return the native prediction at x (B, C, *S), model times t (B,) and items; and each extra loss's term (B,).

        `pixels` are the clean pictures, which extra losses look at.
        """
        backbone, anew = self.model.backbone, bool(self.segments) and torch.is_grad_enabled()
        marks = {backbone.depth * part // self.segments for part in range(1, self.segments)} if anew else set[int]()
        marks |= {0, backbone.depth, *self.depths}
        stream, terms = backbone.begin(x, t, self.model.prompt.encode(items)), {}
        for lo, hi in pairwise(sorted(marks)):
            stream = checkpoint(backbone.run, stream, lo, hi, use_reentrant=False) if anew else backbone.run(stream, lo, hi)
            for index, loss in enumerate(self.losses):
                if self.depths[index] == hi:
                    terms[index] = loss(stream, pixels)
        return backbone.head(stream), [terms[index] for index in range(len(self.losses))]
