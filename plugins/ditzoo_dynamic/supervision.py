"""The loss that trains exits: each is taught what the last block is, and what the last block says."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ditzoo.interfaces import Loss, Passage


class ExitLoss(Loss):
    """The sum over exits k of (1 - distill) |v_k - v|^2 + distill |v_k - sg(v_L)|^2, each a mean over elements.

    The second part (self-distillation, as in DeeDiff, Tang et al. 2023) reaches the channels of a learned variance too.
    """

    def __init__(self, depths: Sequence[int], distill: float) -> None:
        super().__init__()
        self.depths = tuple(depths)
        self.distill = distill

    def forward(self, passage: Passage) -> Tensor:
        channels, last = passage.target.shape[1], passage.out.detach().float()
        total = passage.weights.new_zeros(len(last))
        for depth in self.depths:
            out = passage.backbone.read(passage.streams[depth], depth).float()
            total = total + (1 - self.distill) * passage.squared(out[:, :channels], passage.target)
            total = total + self.distill * passage.squared(out, last)
        return total * passage.weights
