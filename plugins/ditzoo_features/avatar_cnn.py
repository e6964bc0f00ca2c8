"""avatar-cnn: three 3x3 convolutions with batch norm, 128 features, and the scores of nine attributes of a pixel avatar."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ditzoo.checkpoints import open_file
from ditzoo.errors import CheckpointError, EvaluationError
from ditzoo.interfaces import Features, Seen
from ditzoo.places import file_sha256

SHIPPED = Path(__file__).with_name("avatar-cnn.safetensors")
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


class AvatarCNN(Features):
    """The network with its weights, frozen."""

    def __init__(self, network: Network, sha256: str) -> None:
        self.network, self.sha256 = network.eval().requires_grad_(False), sha256

    @classmethod
    def opened(cls, weights: str | None) -> AvatarCNN:
        path = SHIPPED if weights is None else Path(weights).expanduser()
        network = Network()
        try:
            network.load_state_dict(open_file(path).tensors)
        except RuntimeError as error:
            raise CheckpointError(f"{path} does not hold avatar-cnn: {str(error).splitlines()[-1].strip()}") from error
        return cls(network, file_sha256(path))

    def see(self, pixels: Tensor) -> Seen:
        if tuple(pixels.shape[1:]) != (3, 16, 16):
            raise EvaluationError(f"features 'avatar-cnn' look at 3x16x16 pictures, found {'x'.join(map(str, pixels.shape[1:]))}")
        with torch.no_grad():
            features, scores = self.network(pixels.float().cpu())
        return Seen(features, None, None, torch.stack([score.argmax(1) for score in scores], 1))
