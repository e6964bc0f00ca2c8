"""Specs of the MM-DiT backbone and of joint attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from ditzoo.sizes import Dimensions, check_picture, check_width, filled, unpatched
from ditzoo.specs import BackboneSpec, ConditioningSpec, Positive, Size, shape

if TYPE_CHECKING:
    from ditzoo.interfaces import Backbone, Conditioning


SIZES = {"2B": Dimensions(1536, 24, 24), "8B": Dimensions(2432, 38, 38)}  # a head of 64 channels a block, as the paper scales it


class MMDiTSpec(BackboneSpec):
    """The backbone of Stable Diffusion 3: positions are cropped from the centre of a larger table, so any grid up to it is served.

    `size` fills width, depth and heads as SD3-medium (2B) and SD3.5-large (8B) have them. `table` is the side of the position table
    in tokens; its sine-cosine values are scaled as for `input_size`, and with `positions = "learned"` they are only the beginning.
    """

    kind: Literal["mmdit"] = "mmdit"
    provides: ClassVar[frozenset[str]] = frozenset({"two-streams", "single-stream", "separate-head"})

    size: Literal["2B", "8B"] | None = None
    heads: Positive
    patch: Positive = 2
    mlp_ratio: float = Field(4.0, gt=0)
    in_channels: Positive = 16
    input_size: Size = (128, 128)
    table: Positive = 192
    positions: Literal["sincos", "learned"] = "sincos"
    qk_norm: Literal["rms"] | None = None

    @classmethod
    def examples(cls) -> dict[str, dict[str, Any]]:
        return {"": {"width": 32, "depth": 2, "heads": 2, "in_channels": 3, "input_size": [8, 8], "table": 16, "qk_norm": "rms"}}

    @model_validator(mode="before")
    @classmethod
    def _fill_from_size(cls, data: Any) -> Any:
        return filled(data, SIZES)

    @model_validator(mode="after")
    def _fits(self) -> MMDiTSpec:
        check_width(self.width, self.heads)
        check_picture(self.input_size)
        if self.learn_sigma:
            raise ValueError("learn_sigma=true: this network predicts one thing; set learn_sigma=false")
        if problem := self.check_size(self.input_size):
            raise ValueError(f"input_size: {problem}")
        return self

    def check_size(self, size: Sequence[int]) -> str | None:
        if problem := unpatched(size, self.patch):
            return problem
        grid = [extent // self.patch for extent in size]
        if max(grid) > self.table:
            return (
                f"the position table serves grids up to {self.table}x{self.table} tokens, and a latent of {shape(size)} is {shape(grid)}; "
                f"the largest latent is {shape([self.table * self.patch] * 2)}"
            )
        return None

    def build(self, conditioning: Conditioning) -> Backbone:
        from ditzoo_mmdit.backbone import MMDiT

        return MMDiT(self, conditioning)


class JointAttentionSpec(ConditioningSpec):
    """Two streams with weights of their own and one attention over both; time and the prompt's vector modulate either by adaLN-Zero.

    The first `dual` blocks have a second attention over the image alone, as Stable Diffusion 3.5 medium has.
    """

    kind: Literal["joint-attention"] = "joint-attention"
    provides: ClassVar[frozenset[str]] = frozenset({"identity-at-start", "packs"})
    requires: ClassVar[frozenset[str]] = frozenset({"two-streams", "prompt-vec", "prompt-tokens"})

    dual: int = Field(0, ge=0)

    def build(self, width: int) -> Conditioning:
        from ditzoo_mmdit.joint import JointAttention

        return JointAttention(self.dual)
