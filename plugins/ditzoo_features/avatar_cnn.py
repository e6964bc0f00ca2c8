"""avatar-cnn: three 3x3 convolutions with batch norm, 128 features, and the scores of nine attributes of a pixel avatar."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ditzoo.interfaces import Seen
from ditzoo_features.shipped import Small

VALUES = (3, 2, 6, 5, 2, 6, 2, 2, 5)  # of skin, length, hair, shirt, mood, background, glasses, beard, hat


class Network(nn.Module):
    """16x16 pictures in colour to features (B, 128) and the scores of each attribute's values."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, pooled in ((3, 48, False), (48, 64, True), (64, 96, True)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if pooled else []
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(96 * 16, 128), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(128, count) for count in VALUES)

    def forward(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = self.trunk(pixels)
        return features, [head(features) for head in self.heads]


class AvatarCNN(Small):
    """The network with its weights."""

    name, network_class, looks_at = "avatar-cnn", Network, "3x16x16 pictures"

    @classmethod
    def fits(cls, size: tuple[int, ...]) -> bool:
        return size == (3, 16, 16)

    def seen(self, pixels: Tensor) -> Seen:
        features, scores = self.network(pixels)
        return Seen(features, None, None, torch.stack([score.argmax(1) for score in scores], 1))
