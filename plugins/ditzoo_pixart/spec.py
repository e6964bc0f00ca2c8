"""The spec of adaLN-single, PixArt's conditioning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ditzoo.specs import ConditioningSpec, Positive

if TYPE_CHECKING:
    from ditzoo.interfaces import Conditioning
    from ditzoo.model_spec import ModelSpec


class AdaLNSingleSpec(ConditioningSpec):
    """Time modulates by one layer that all blocks share, to which each adds a table of its own (Chen et al. 2023, section 2.3); the
    prompt's tokens are looked at by cross-attention.

    With `sizes` the picture's height, width and aspect ratio, in pixels, join the time; a token spans `pixels` of them on each axis.
    """

    kind: Literal["adaln-single"] = "adaln-single"
    requires: ClassVar[frozenset[str]] = frozenset({"single-stream", "prompt-tokens"})

    sizes: bool = False
    pixels: Positive = 16

    @classmethod
    def examples(cls) -> dict[str, dict[str, Any]]:
        return {"": {}}

    def check(self, model: ModelSpec) -> str | None:
        if not self.sizes:
            return None
        width, patch, factor = model.backbone.width, getattr(model.backbone, "patch", None), model.codec.factor
        if width % 3:
            near = f"{width // 3 * 3}, {-(-width // 3) * 3}"
            return f"sizes=true shares backbone.width={width} out among height, width and their ratio; nearest widths: {near}"
        if patch is not None and patch * factor != self.pixels:
            return (
                f"a token spans {patch * factor} pixels (backbone.patch={patch} times codec.factor={factor}) and conditioning.pixels is "
                f"{self.pixels}; set conditioning.pixels={patch * factor}"
            )
        return None

    def build(self, width: int) -> Conditioning:
        from ditzoo_pixart.single import AdaLNSingle

        return AdaLNSingle(width, self.pixels if self.sizes else None)
