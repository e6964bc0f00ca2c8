"""The spec of the sampler `multidiffusion`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from ditzoo.specs import Positive, SamplerSlot, SamplerSpec, shape

if TYPE_CHECKING:
    from ditzoo.interfaces import Sampler
    from ditzoo.model_spec import ModelSpec


class MultiDiffusionSpec(SamplerSpec):
    """Pictures and clips larger than the network sees at once: any sampler, looking through windows that overlap and are averaged.

    Bar-Tal et al. 2023, "MultiDiffusion", of pictures; Wang et al. 2023, "Gen-L-Video", of clips. All windows are drawn together, so that
    none is the end of a chain, and memory is that of one. What fits into a window is drawn as `inner` draws it.
    """

    kind: Literal["multidiffusion"] = "multidiffusion"
    provides: ClassVar[frozenset[str]] = frozenset({"lays-windows"})

    inner: SamplerSlot
    window: tuple[Positive, ...] = Field(
        min_length=1, description="latent cells seen at once on the first axes (frames of a clip, rows, columns); the others are seen whole"
    )
    overlap: float = Field(0.5, ge=0, lt=1, description="share of a window that the next one sees too, at least")

    @classmethod
    def examples(cls) -> dict[str, dict[str, Any]]:
        return {"": {"inner": "ddim", "window": [16]}}

    @property
    def provides_now(self) -> frozenset[str]:
        return self.provides | self.inner.provides_now

    @property
    def requires_now(self) -> frozenset[str]:
        return self.inner.requires_now

    @property
    def promised_order(self) -> int | None:
        return self.inner.promised_order

    def check_steps(self, steps: int) -> str | None:
        return self.inner.check_steps(steps)

    def check(self, model: ModelSpec) -> str | None:
        size = model.backbone.input_size
        if len(self.window) > len(size):
            return f"sampler.window={shape(self.window)} has {len(self.window)} axes, and the latent {shape(size)} has {len(size)}"
        if problem := model.backbone.check_size(self.seen(size)):
            return f"sampler.window={shape(self.window)}: {problem}"
        if "lays-windows" in self.inner.provides_now:
            return "sampler.inner lays windows itself; name the solver there, and all axes in one sampler.window"
        return self.inner.check(model.model_copy(update={"sampler": self.inner}))

    def seen(self, size: Sequence[int]) -> tuple[int, ...]:
        count = len(self.window)
        return self.inner.seen((*map(min, self.window, size[:count]), *size[count:]))

    def build(self) -> Sampler:
        from ditzoo_diffusion.windowed import MultiDiffusion

        return MultiDiffusion(self.inner.build(), self.window, self.overlap)
