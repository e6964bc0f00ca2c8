"""fashion-cnn: three 3x3 convolutions with batch norm and pooling, then 128 features and ten class scores."""

from __future__ import annotations

from torch import Tensor, nn

from ditzoo.interfaces import Seen
from ditzoo_features.shipped import Small

LAST_POOLING = 11  # in the trunk: after three convolutions with norm and ReLU, and two poolings


class Network(nn.Module):
    """28x28 grey pictures to features (B, 128) and scores (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((1, 32), (32, 64), (64, 96)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(96 * 9, 128), nn.ReLU())
        self.classes = nn.Linear(128, 10)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk(pixels)
        return features, self.classes(features)

    def see_places(self, pixels: Tensor) -> Seen:
        """Features, scores, and what the last convolution finds at 7x7 places, (B, 96, 7, 7)."""
        places = self.trunk[:LAST_POOLING](pixels)
        features = self.trunk[LAST_POOLING:](places)
        return Seen(features, self.classes(features), places)


class FashionCNN(Small):
    """The network with its weights."""

    name, network_class, looks_at = "fashion-cnn", Network, "1x28x28 pictures"

    @classmethod
    def fits(cls, size: tuple[int, ...]) -> bool:
        return size == (1, 28, 28)

    def seen(self, pixels: Tensor) -> Seen:
        assert isinstance(self.network, Network)
        return self.network.see_places(pixels)
