"""The loss that teaches DyDiT's routers a share of the multiply-adds."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ditzoo.errors import TrainingError
from ditzoo.interfaces import Backbone, Loss, Passage, Stream
from ditzoo_dynamic.dydit import DynamicAttention, DynamicMlp


class FlopsLoss(Loss):
    """(share - target)^2, where share is the mean over a batch's rows and all blocks of the multiply-adds that are chosen.

    Choices depend on the time and on the stream as it enters a block, so they are made anew here from the streams.
    """

    def __init__(self, depth: int, target: float) -> None:
        super().__init__()
        self.depths = tuple(range(depth))
        self.target = target

    def forward(self, passage: Passage) -> Tensor:
        if any(isinstance(p, DTensor) for p in passage.backbone.blocks.parameters()):
            raise TrainingError(
                "the loss 'flops' reads the routers inside of the blocks, which length.shard shares out; set length.shard=false"
            )
        shares = [share(passage.backbone, depth, passage.streams[depth]) for depth in self.depths]
        mean = torch.stack(shares).mean()
        return (mean - self.target).square().expand(len(shares[0]))


def share(backbone: Backbone, depth: int, stream: Stream) -> Tensor:
    """Return the share of block `depth`'s multiply-adds that each row (B,) of the stream before it chooses."""
    block = backbone.blocks[depth]
    attention = next(module for module in block.modules() if isinstance(module, DynamicAttention))
    mlp = next(module for module in block.modules() if isinstance(module, DynamicMlp))
    count, width = stream.tokens.shape[1:]
    looking, thinking = 4 * width**2 + 2 * count * width, 2 * width * mlp.fc1.out_features  # of a token
    heads = attention.choose(stream).soft.mean(1)
    channels, tokens = (choice.soft.mean(1) for choice in mlp.choose(stream))
    return (heads * looking + channels * tokens * thinking) / (looking + thinking)
