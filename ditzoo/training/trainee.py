"""What a run trains: the model and the extra losses beside it, as one module, called once a step.

One call a step, through one module, lets the wrappers of several processes see every parameter and every gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, is_grad_enabled, nn
from torch.utils.checkpoint import checkpoint

from ditzoo.assemble import Model
from ditzoo.interfaces import Loss, Passage
from ditzoo.packing import Pack


class Trainee(nn.Module):
    """A model, extra losses, and in how many parts the blocks' activations are computed anew in the backward pass (0 keeps all)."""

    def __init__(self, model: Model, losses: Sequence[Loss] = (), segments: int = 0) -> None:
        super().__init__()
        self.model = model
        self.losses = nn.ModuleList(losses)
        self.depths = {depth for loss in losses for depth in loss.depths}
        self.segments = segments

    def forward(
        self,
        x: Tensor | Pack,
        t: Tensor,
        items: Sequence[object],
        target: Tensor,
        weights: Tensor,
        pixels: Tensor,
        counts: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the native prediction at x (B, C, *S), model times t (B,) and items; and each extra loss's term (B,).

        What the prediction should be, what a row's error weighs (B,), what counts of it and the clean pictures are for the extra losses.
        Of packed clips there are no pictures, t and items have a row a clip, and all else has a row a patch.
        """
        backbone, anew = self.model.backbone, bool(self.segments) and is_grad_enabled()
        marks = {backbone.depth * part // self.segments for part in range(1, self.segments)} if anew else set[int]()
        marks |= {0, backbone.depth, *self.depths}
        stream = backbone.begin(x, t, self.model.prompt.encode(items))
        streams = {0: stream}
        for lo, hi in pairwise(sorted(marks)):
            stream = checkpoint(backbone.run, stream, lo, hi, use_reentrant=False) if anew else backbone.run(stream, lo, hi)
            streams[hi] = stream
        out = backbone.head(stream)
        if not self.losses:
            return out, []
        seen = {depth: streams[depth] for depth in self.depths}
        passage = Passage(seen, out, target, weights, pixels, backbone, self.model.prompt, counts)
        return out, [loss(passage) for loss in self.losses]
