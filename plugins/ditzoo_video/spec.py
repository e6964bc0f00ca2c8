"""The spec of the video backbone: DiT's sizes over space-time patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from ditzoo.sizes import SIZES, check_width, filled, unpatched
from ditzoo.specs import AttentionSlot, BackboneSpec, PositionsSlot, Positive, Size, shape
from ditzoo_video.patterns_spec import JointSpec
from ditzoo_video.positions_spec import RotarySpec

if TYPE_CHECKING:
    from ditzoo.interfaces import Backbone, Conditioning


class VideoDiTSpec(BackboneSpec):
    """A Diffusion Transformer over latents (T, H, W) of any size that its patch (frames, rows, columns) divides; an image is one frame.

    `attention` says which tokens look at which, `positions` how they know their place. `input_size` is that of training, or the
    largest of training where sizes were mixed: positions beyond it are what `positions.beyond` says.
    With `frame_times` each frame of a clip may have a time of its own, so that some may be given and others drawn.
    """

    kind: Literal["video-dit"] = "video-dit"
    provides: ClassVar[frozenset[str]] = frozenset({"single-stream", "two-streams", "separate-head", "packs"})

    size: Literal["S", "B", "L", "XL"] | None = None
    heads: Positive
    patch: tuple[Positive, Positive, Positive] = (1, 2, 2)
    mlp_ratio: float = Field(4.0, gt=0)
    in_channels: Positive = 4
    input_size: Size = (16, 32, 32)
    attention: AttentionSlot = JointSpec()
    positions: PositionsSlot = RotarySpec()
    qk_norm: Literal["rms"] | None = None
    frame_times: bool = False

    @classmethod
    def examples(cls) -> dict[str, dict[str, Any]]:
        tiny = {"width": 32, "depth": 2, "heads": 2, "in_channels": 3, "input_size": [4, 8, 8]}
        factorised = {"attention": {"kind": "factorised"}, "positions": {"kind": "sincos"}, "frame_times": True}
        return {"": tiny, "factorised": tiny | factorised}

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
        more = {"learned-variance": self.learn_sigma, "frame-times": self.frame_times}
        return self.provides | {name for name, has in more.items() if has}

    def grid_of(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return how many tokens a latent has on each axis."""
        return tuple(extent // side for extent, side in zip(size, self.patch, strict=True))

    def tokens_of(self, size: Sequence[int]) -> int:
        return math.prod(self.grid_of(size))

    def check_size(self, size: Sequence[int]) -> str | None:
        if len(size) != 3:
            return f"a video latent is (frames, height, width), found {shape(size)}; a picture is one frame: {shape((1, *size))}"
        return unpatched(size, self.patch)

    def remark(self, size: Sequence[int]) -> str | None:
        return self.positions.remark(self.grid_of(size), self.grid_of(self.input_size))

    def build(self, conditioning: Conditioning) -> Backbone:
        from ditzoo_video.backbone import VideoDiT

        return VideoDiT(self, conditioning)
