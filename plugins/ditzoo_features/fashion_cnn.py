"""fashion-cnn: three 3x3 convolutions with batch norm and pooling, then 128 features and ten class scores."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ditzoo.checkpoints import open_file
from ditzoo.errors import CheckpointError, EvaluationError
from ditzoo.interfaces import Features, Seen
from ditzoo.places import file_sha256

LAST_POOLING = 11  # in the trunk: after three convolutions with norm and ReLU, and two poolings
SHIPPED = Path(__file__).with_name("fashion-cnn.safetensors")


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

    def see(self, pixels: Tensor) -> Seen:
        """Features, scores, and what the last convolution finds at 7x7 places, (B, 96, 7, 7)."""
        places = self.trunk[:LAST_POOLING](pixels)
        features = self.trunk[LAST_POOLING:](places)
        return Seen(features, self.classes(features), places)


class FashionCNN(Features):
    """The network with its weights, frozen."""

    def __init__(self, network: Network, sha256: str) -> None:
        self.network, self.sha256 = network.eval().requires_grad_(False), sha256

    @classmethod
    def opened(cls, weights: str | None) -> FashionCNN:
        path = SHIPPED if weights is None else Path(weights).expanduser()
        network = Network()
        try:
            network.load_state_dict(open_file(path).tensors)
        except RuntimeError as error:
            raise CheckpointError(f"{path} does not hold fashion-cnn: {str(error).splitlines()[-1].strip()}") from error
        return cls(network, file_sha256(path))

    def see(self, pixels: Tensor) -> Seen:
        if tuple(pixels.shape[1:]) != (1, 28, 28):
            raise EvaluationError(f"features 'fashion-cnn' look at 1x28x28 pictures, found {'x'.join(map(str, pixels.shape[1:]))}")
        with torch.no_grad():
            return self.network.see(pixels.float().cpu())
