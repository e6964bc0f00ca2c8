"""The spec of `repa`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ditzoo.specs import FeaturesSlot, LossSpec, Positive

if TYPE_CHECKING:
    from ditzoo.interfaces import Loss
    from ditzoo.model_spec import ModelSpec


class RepaSpec(LossSpec):
    """Representation alignment (Yu et al. 2024, "Representation Alignment for Generation"), over any part of the slot `features`.

    A projector reads the image tokens after block `depth`; the term is the mean of 1 - cos between it and the frozen network's
    features at each token, or of the pooled ones where that network has no features by place. What the network was trained on
    enters the model: a distance measured over the same features is not a fair one.
    """

    kind: Literal["repa"] = "repa"
    weight: float = Field(0.5, gt=0)
    depth: Positive = Field(description="it looks after so many blocks")
    features: FeaturesSlot
    hidden: Positive = Field(512, description="width of the projector's two hidden layers")

    def check(self, model: ModelSpec) -> str | None:
        if self.depth > model.backbone.depth:
            return f"depth={self.depth} is beyond backbone.depth={model.backbone.depth}"
        if len(model.backbone.input_size) != 2:
            return f"it aligns pictures, and this backbone works on {len(model.backbone.input_size)} axes"
        return None

    def build(self, model: ModelSpec) -> Loss:
        from ditzoo_repa.alignment import Alignment

        return Alignment(self, self.features.build(), model)
