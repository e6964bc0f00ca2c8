"""Layers between what encoders say and the model's width, trained with the model."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ditzoo.activations import gelu


class Pooled(nn.Module):
    """Linear, SiLU, linear: of a pooled vector (Esser et al. 2024; stabilityai/sd3-ref)."""

    def __init__(self, pooled: int, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(pooled, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.silu(self.fc1(x)))


class Caption(nn.Module):
    """Linear, tanh-approximated GELU, linear: of the tokens of a caption (Chen et al. 2023; PixArt-alpha/PixArt-alpha)."""

    def __init__(self, states: int, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(states, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(gelu(self.fc1(x)))


PROJECTIONS: dict[str, type[nn.Module]] = {"linear": nn.Linear, "mlp": Caption}
