"""The spec of the sampler `rolling`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from ditzoo.specs import Positive, SamplerSpec

if TYPE_CHECKING:
    from ditzoo.interfaces import Sampler
    from ditzoo.model_spec import ModelSpec


class RollingSpec(SamplerSpec):
    """Clips of any length, `window` frames at a time (Ruhe et al. 2024, "Rolling Diffusion Models"): times rise from the first frame of
    the window to its last, and as the first becomes data the window moves on. Steps are DDIM's, of a model trained with `objective.rising`.

    The steps are those of the whole walk: each frame is looked at in window of every frames + window - 1 of them.
    """

    kind: Literal["rolling"] = "rolling"
    provides: ClassVar[frozenset[str]] = frozenset({"windows"})
    adaptations: ClassVar[tuple[tuple[str, ...], ...]] = (("backbone.frame_times=true",),)

    window: Positive = Field(8, description="latent frames that the network sees at once")

    @property
    def promised_order(self) -> int | None:
        return 1

    def seen(self, size: Sequence[int]) -> tuple[int, ...]:
        return (min(self.window, size[0]), *size[1:]) if len(size) == 3 else tuple(size)

    def check(self, model: ModelSpec) -> str | None:
        backbone = model.backbone
        if "frame-times" not in backbone.provides_now:
            return (
                f"sampler 'rolling' gives every frame a time of its own, and backbone '{backbone.kind}' as declared has one for all; "
                f"set backbone.frame_times=true on one that can, or choose another sampler"
            )
        if problem := backbone.check_size((self.window, *backbone.input_size[1:])):
            return f"sampler.window={self.window}: {problem}"
        return None

    def build(self) -> Sampler:
        from ditzoo_video.rolling import Rolling

        return Rolling(self.window)
