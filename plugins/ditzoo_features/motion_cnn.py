"""motion-cnn: what is in a clip, frame by frame, and how it moves, from pairs of frames. For grey clips of any size.

Shapes: B clips, T frames, (H, W) a frame.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ditzoo.interfaces import Seen
from ditzoo_features.shipped import Small

VALUES = (10, 7, 2)  # of article, motion, speed
FRAME, MOVEMENT = 128, 64  # features of a frame, and of how frames follow one another


class Network(nn.Module):
    """Clips (B, 1, T, H, W) to features (B, 192), those of each frame (B, T, 128), and scores of article, motion and speed."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((1, 32), (32, 64), (64, FRAME)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
        self.frame = nn.Sequential(*layers)
        self.movement = nn.Sequential(
            nn.Conv3d(1, 32, (2, 5, 5), stride=(1, 2, 2), padding=(0, 2, 2), bias=False),
            nn.BatchNorm3d(32),
            nn.ReLU(),
            nn.Conv3d(32, MOVEMENT, (2, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1), bias=False),
            nn.BatchNorm3d(MOVEMENT),
            nn.ReLU(),
        )
        self.article, self.motion, self.speed = nn.Linear(FRAME, VALUES[0]), nn.Linear(MOVEMENT, VALUES[1]), nn.Linear(MOVEMENT, VALUES[2])

    def of_frames(self, clips: Tensor) -> Tensor:
        """What is in each frame, wherever it is: (B, T, 128)."""
        maps = self.frame(rearrange(clips, "b c t h w -> (b t) c h w"))
        return rearrange(maps.mean((2, 3)) + maps.amax((2, 3)), "(b t) d -> b t d", b=len(clips))

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        frames, moves = self.of_frames(clips), self.movement(clips).mean((2, 3, 4))
        whole = frames.mean(1)
        return torch.cat([whole, moves], 1), frames, [self.article(whole), self.motion(moves), self.speed(moves)]

    def loss(self, clips: Tensor, wanted: Tensor, shown: Tensor) -> Tensor:
        """Cross-entropy of article, motion and speed (B, 3); the article is read off the frames `shown` alone, which saves time."""
        frames, moves = self.of_frames(clips[:, :, shown]), self.movement(clips).mean((2, 3, 4))
        scores = [self.article(frames.mean(1)), self.motion(moves), self.speed(moves)]
        return torch.stack([F.cross_entropy(score, wanted[:, i]) for i, score in enumerate(scores)]).mean()


class MotionCNN(Small):
    """The network with its weights."""

    name, network_class, looks_at = "motion-cnn", Network, "grey clips (1, T, H, W) of 3 frames or more, 8x8 at least"

    @classmethod
    def fits(cls, size: tuple[int, ...]) -> bool:
        return len(size) == 4 and size[0] == 1 and size[1] >= 3 and min(size[2:]) >= 8

    def seen(self, pixels: Tensor) -> Seen:
        features, frames, scores = self.network(pixels)
        return Seen(features, None, None, torch.stack([score.argmax(1) for score in scores], 1), frames)
