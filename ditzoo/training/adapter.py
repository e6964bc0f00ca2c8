"""What a recipe says of an adapter: a few numbers beside frozen weights, trained in their place. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ditzoo.specs import Positive, Spec

ATTENTION = ("backbone.*.q", "backbone.*.k", "backbone.*.v", "backbone.*.out")


class Adapter(Spec):
    """LoRA (Hu et al. 2021): to each weight of `targets` alpha / rank times a product of two matrices of this rank is added.

    All else stays as `start` has it. `targets` are patterns of linear layers' names with the wildcards * ? []: by default all projections
    of attention. What is written is the adapter alone, in diffusers' format.
    """

    kind: Literal["lora"] = "lora"
    rank: Positive = 4
    alpha: float | None = Field(None, gt=0, description="the rank where None")
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: tuple[str, ...] = Field(ATTENTION, min_length=1)
