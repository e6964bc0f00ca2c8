"""The alignment loss of REPA: a projector of three layers, and cosines to a frozen network's features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditzoo.interfaces import Features, Loss, Passage, Seen, Stream

if TYPE_CHECKING:
    from ditzoo.model_spec import ModelSpec
    from ditzoo_repa.spec import RepaSpec


class Alignment(Loss):
    """The frozen network is no parameter of this module: it is neither trained nor saved with it."""

    def __init__(self, spec: RepaSpec, network: Features, model: ModelSpec) -> None:
        super().__init__()
        self.depths = (spec.depth,)
        self._see = network.see
        channels = model.codec.pixel_channels
        pixels = torch.zeros(1, channels, *model.codec.pixel_size(model.backbone.input_size))
        seen, width = self._see(pixels), model.backbone.width
        features = seen.features.shape[1] if seen.patches is None else seen.patches.shape[1]
        self.projector = nn.Sequential(
            nn.Linear(width, spec.hidden), nn.SiLU(), nn.Linear(spec.hidden, spec.hidden), nn.SiLU(), nn.Linear(spec.hidden, features)
        )

    def forward(self, passage: Passage) -> Tensor:
        """Return the mean of 1 - cos over tokens, (B,)."""
        with torch.no_grad():
            seen = self._see(passage.pixels)
        tokens, targets = _matched(passage.streams[self.depths[0]], seen)
        found = self.projector(tokens).float()  # (B, N or 1, F)
        return 1 - F.cosine_similarity(found, targets.to(found), dim=-1).mean(1)


def _matched(stream: Stream, seen: Seen) -> tuple[Tensor, Tensor]:
    """Return tokens (B, N, D) and the features at each (B, N, F); or both as the mean over all, with N = 1."""
    count = 1
    for extent in stream.grid:
        count *= extent
    tokens = stream.tokens[:, :count]  # tokens that a conditioning has added after them are no places of the picture
    if seen.patches is None:
        return tokens.mean(1, keepdim=True), seen.features[:, None]
    places = F.interpolate(seen.patches, size=stream.grid, mode="bilinear", antialias=True, align_corners=False)
    return tokens, places.flatten(2).transpose(1, 2)
