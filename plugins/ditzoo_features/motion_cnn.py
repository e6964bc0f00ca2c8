"""motion-cnn: what is in a clip, frame by frame wherever it is, and how it moves, from pairs of frames. For grey clips of any size.

Shapes: B clips, T frames, (H, W) a frame; N frames of all of them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ditzoo.interfaces import Seen
from ditzoo_features.shipped import Small

VALUES = (10, 7, 2)  # of article, motion, speed
FRAME, MOVEMENT = 128, 64  # features of a frame, and of how frames follow one another
SIDE = 28  # of what is looked at in a frame: an article
TIE = 1e-4  # pixels: so near to half of one a middle counts as half; sums in float32 differ by 1e-6 between batches and machines
LAYERS = ((1, 48), (48, 48), (48, 96), (96, 144), (144, 192), (192, 192))  # channels in and out; after every other the map is halved


class Network(nn.Module):
    """Clips (B, 1, T, H, W) to features (B, 192), those of each frame (B, T, 128), and scores of article, motion and speed."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index, (inputs, outputs) in enumerate(LAYERS):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if index % 2 else []
        reduced = LAYERS[-1][1] * (SIDE // 8) ** 2
        self.frame = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(reduced, FRAME), nn.ReLU())
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
        return rearrange(self.frame(centred(rearrange(clips, "b c t h w -> (b t) c h w"))), "(b t) d -> b t d", b=len(clips))

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        frames, moves = self.of_frames(clips), self.movement(clips).mean((2, 3, 4))
        whole = frames.mean(1)
        return torch.cat([whole, moves], 1), frames, [self.article(whole), self.motion(moves), self.speed(moves)]

    def article_loss(self, pictures: Tensor, wanted: Tensor) -> Tensor:
        """Cross-entropy of the article in `centred` frames (N, 1, 28, 28); of wanted (N, 3) the first."""
        return F.cross_entropy(self.article(self.frame(pictures)), wanted[:, 0], label_smoothing=0.05)

    def movement_loss(self, clips: Tensor, wanted: Tensor) -> Tensor:
        """Mean cross-entropy of motion and speed; of wanted (B, 3) the second and third."""
        moves = self.movement(clips).mean((2, 3, 4))
        return (F.cross_entropy(self.motion(moves), wanted[:, 1]) + F.cross_entropy(self.speed(moves), wanted[:, 2])) / 2


def centred(frames: Tensor) -> Tensor:
    """Roll frames (N, 1, H, W) so that what is bright lies in the middle, and cut that out: (N, 1, 28, 28).

    What leaves a frame comes back opposite, so an article that the edge cuts is whole again. The middle of what is on a ring is the phase
    of its first harmonic. Of an even extent that is often half a pixel, and then the next whole one is taken, whatever the last bits say.
    """
    light, places = (frames[:, 0] + 1).clamp(min=0), []
    side = torch.arange(SIDE, device=frames.device) - SIDE // 2
    for axis, other in ((1, 2), (2, 1)):
        extent = frames.shape[1 + axis]
        turns = torch.arange(extent, device=frames.device) * (2 * math.pi / extent)
        line = light.sum(other)  # (N, extent)
        middle = torch.atan2(line @ turns.sin(), line @ turns.cos()) * (extent / (2 * math.pi))
        places.append(((middle + 0.5 + TIE).floor().long()[:, None] + side) % extent)
    rows, columns = places
    return frames[torch.arange(len(frames), device=frames.device)[:, None, None], 0, rows[:, :, None], columns[:, None, :]][:, None]


class MotionCNN(Small):
    """The network with its weights."""

    name, network_class, looks_at = "motion-cnn", Network, "grey clips (1, T, H, W) of 3 frames or more, 28x28 at least"

    @classmethod
    def fits(cls, size: tuple[int, ...]) -> bool:
        return len(size) == 4 and size[0] == 1 and size[1] >= 3 and min(size[2:]) >= SIDE

    def seen(self, pixels: Tensor) -> Seen:
        features, frames, scores = self.network(pixels)
        return Seen(features, None, None, torch.stack([score.argmax(1) for score in scores], 1), frames)
