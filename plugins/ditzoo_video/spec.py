"""The spec of the video backbone: DiT's sizes over space-time patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from ditzoo.sizes import Dimensions, check_width, filled, unpatched
from ditzoo.specs import AttentionSlot, BackboneSpec, PositionsSlot, Positive, Size, shape
from ditzoo_video.patterns_spec import JointSpec
from ditzoo_video.positions_spec import RotarySpec

if TYPE_CHECKING:
    from ditzoo.interfaces import Backbone, Conditioning

SIZES = {
    "S": Dimensions(384, 12, 6),
    "B": Dimensions(768, 12, 12),
    "L": Dimensions(1024, 24, 16),
    "XL": Dimensions(1152, 28, 16),
}


class VideoDiTSpec(BackboneSpec):
    """A Diffusion Transformer over latents (T, H, W) of any size that its patch (frames, rows, columns) divides; an image is one frame.

    `attention` says which tokens look at which, `positions` how they know their place. `input_size` is that of training, or the
    largest of training where sizes were mixed: positions beyond it are what `positions.beyond` says.
    """

    kind: Literal["video-dit"] = "video-dit"
    provides: ClassVar[frozenset[str]] = frozenset({"single-stream", "two-streams", "separate-head"})

    size: Literal["S", "B", "L", "XL"] | None = None
    heads: Positive
    patch: tuple[Positive, Positive, Positive] = (1, 2, 2)
    mlp_ratio: float = Field(4.0, gt=0)
    in_channels: Positive = 4
    input_size: Size = (16, 32, 32)
    attention: AttentionSlot = JointSpec()
    positions: PositionsSlot = RotarySpec()
    qk_norm: Literal["rms"] | None = None

    @classmethod
    def examples(cls) -> dict[str, dict[str, Any]]:
        tiny = {"width": 32, "depth": 2, "heads": 2, "in_channels": 3, "input_size": [4, 8, 8]}
        return {"": tiny, "factorised": tiny | {"attention": {"kind": "factorised"}, "positions": {"kind": "sincos"}}}

    @model_validator(mode="before")
    @classmethod
    def _fill_from_size(cls, data: Any) -> Any:
        return filled(data, SIZES)

    @model_validator(mode="after")
    def _fits(self) -> VideoDiTSpec:
        check_width(self.width, self.heads)
        if len(self.input_size) != 3:
            raise ValueError(f"input_size of a video backbone is (frames, height, width), found {shape(self.input_size)}")
        if problem := self.check_size(self.input_size):
            raise ValueError(f"input_size: {problem}")
        if problem := self.positions.check(self.width, self.heads, 3):
            raise ValueError(f"positions: {problem}")
        return self

    @property
    def out_channels(self) -> int:
        return self.in_channels * (2 if self.learn_sigma else 1)

    @property
    def provides_now(self) -> frozenset[str]:
        return self.provides | ({"learned-variance"} if self.learn_sigma else set())

    def grid_of(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return how many tokens a latent has on each axis."""
        return tuple(extent // side for extent, side in zip(size, self.patch, strict=True))

    def check_size(self, size: Sequence[int]) -> str | None:
        if len(size) != 3:
            return f"a video latent is (frames, height, width), found {shape(size)}; a picture is one frame: {shape((1, *size))}"
        return unpatched(size, self.patch)

    def build(self, conditioning: Conditioning) -> Backbone:
        from ditzoo_video.backbone import VideoDiT

        return VideoDiT(self, conditioning)
