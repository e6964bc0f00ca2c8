"""The spec of the DiT backbone: the paper's sizes as a table, and any other as fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from ditzoo.sizes import Dimensions, check_picture, check_width, filled, unpatched
from ditzoo.specs import BackboneSpec, Positive, Size, shape

if TYPE_CHECKING:
    from ditzoo.interfaces import Backbone, Conditioning


SIZES = {
    "S": Dimensions(384, 12, 6),
    "B": Dimensions(768, 12, 12),
    "L": Dimensions(1024, 24, 16),
    "XL": Dimensions(1152, 28, 16),
}


class DiTSpec(BackboneSpec):
    """A Diffusion Transformer over images.

    `size` fills width, depth and heads from the paper's table 1; a field that is given wins over it. `positions` says
    which latents are served: `fixed` only those of `input_size`; `extend` any, with the sine-cosine table continued;
    `interpolate` any, with the table of `input_size` stretched over the grid. Positions are divided by `interpolation_scale`, as where
    training went on from a smaller size. `numerics` is whose arithmetic the
    weights mean: the original code's, or diffusers', which differs in the time frequencies and one epsilon.
    """

    kind: Literal["dit"] = "dit"
    size: Literal["S", "B", "L", "XL"] | None = None
    heads: Positive
    patch: Positive = 2
    mlp_ratio: float = Field(4.0, gt=0)
    in_channels: Positive = 4
    input_size: Size = (32, 32)
    learn_sigma: bool = True
    positions: Literal["fixed", "extend", "interpolate"] = "fixed"
    interpolation_scale: float = Field(1.0, gt=0)
    numerics: Literal["original", "diffusers"] = "original"

    @classmethod
    def examples(cls) -> dict[str, dict[str, Any]]:
        tiny = {"width": 32, "depth": 2, "heads": 2, "patch": 2, "in_channels": 3, "input_size": [8, 8]}
        return {"": tiny | {"learn_sigma": False}}

    @model_validator(mode="before")
    @classmethod
    def _fill_from_size(cls, data: Any) -> Any:
        return filled(data, SIZES)

    @model_validator(mode="after")
    def _divides(self) -> DiTSpec:
        check_width(self.width, self.heads)
        check_picture(self.input_size)
        if problem := unpatched(self.input_size, self.patch):
            raise ValueError(f"input_size: {problem}")
        return self

    @property
    def provides_now(self) -> frozenset[str]:
        return frozenset({"single-stream", "separate-head"} | ({"learned-variance"} if self.learn_sigma else set()))

    @property
    def out_channels(self) -> int:
        return self.in_channels * (2 if self.learn_sigma else 1)

    @property
    def grid(self) -> tuple[int, ...]:
        return tuple(extent // self.patch for extent in self.input_size)

    def check_size(self, size: Sequence[int]) -> str | None:
        if problem := unpatched(size, self.patch):
            return problem
        if self.positions == "fixed" and tuple(size) != tuple(self.input_size):
            return (
                f"the position table serves latents of {shape(self.input_size)} alone, not {shape(size)}; "
                f"set backbone.positions=interpolate (or extend) to try sizes never trained on"
            )
        return None

    def build(self, conditioning: Conditioning) -> Backbone:
        from ditzoo_dit.backbone import DiT

        return DiT(self, conditioning)
