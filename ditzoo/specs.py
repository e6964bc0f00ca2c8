"""Part specs: the exchangeable pieces of a model as frozen, validated data. Imports no torch.

A *part* is one exchangeable piece. Its spec is a pydantic class with a `slot`, a `kind` and fields; its `build`
imports what it needs and returns the working piece. A model spec holds one part for each slot; where data
comes in (TOML, JSON, keyword arguments), the zoo in the validation context finds the class of each part by its
kind, so the core knows no kind by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator

from ditzoo.parts import Latent as Latent  # what every plugin needs besides is at hand here
from ditzoo.parts import Part as Part
from ditzoo.parts import Positive as Positive
from ditzoo.parts import Size as Size
from ditzoo.parts import Spec as Spec
from ditzoo.parts import from_zoo
from ditzoo.parts import shape as shape

if TYPE_CHECKING:
    from ditzoo.interfaces import (
        Backbone,
        Codec,
        Conditioning,
        Dataset,
        DepthPolicy,
        Exits,
        Features,
        Loss,
        Pattern,
        Positions,
        Prompt,
        Runtime,
        Sampler,
        Schedule,
        Spacing,
    )
    from ditzoo.model_spec import ModelSpec


class BackboneSpec(Part):
    """A network over tokens. `input_size` is the latent size of training: (H, W), or (T, H, W) for video.

    One that provides `packs` takes clips of several sizes as one row of tokens (`Backbone.pack`), and keeps them apart; one that
    provides `frame-times` takes a time for each frame too, (B, T), of which the largest is the clip's.
    """

    slot: ClassVar[str] = "backbone"

    width: Positive
    depth: Positive
    in_channels: Positive
    input_size: Size
    learn_sigma: bool = False

    @property
    def exits(self) -> tuple[int, ...]:
        """Depths that the backbone's own head is trained to read; the last is `depth`."""
        return (self.depth,)

    def check_size(self, size: Sequence[int]) -> str | None:
        """Say why a latent of `size` cannot be served and what to do, or return None if it can."""
        if tuple(size) == tuple(self.input_size):
            return None
        return f"this backbone serves latents of {shape(self.input_size)} alone, not {shape(size)}"

    def remark(self, size: Sequence[int]) -> str | None:
        """Say what about a latent of `size`, which is served, is not as in training and should be known; None if nothing is."""
        return None

    def tokens_of(self, size: Sequence[int]) -> int:
        """Return how many tokens a latent of `size` has in a packed row."""
        raise NotImplementedError(f"{type(self).__name__} does not say how many tokens a latent has")

    def build(self, conditioning: Conditioning) -> Backbone:
        raise NotImplementedError(f"{type(self).__name__} does not say how it is built")


class ExitsSpec(Part):
    """Exits given to a backbone that has none of its own: they read its stream `at` so many blocks."""

    slot: ClassVar[str] = "exits"
    provides: ClassVar[frozenset[str]] = frozenset({"exits"})

    at: tuple[Positive, ...] = Field(min_length=1)

    @field_validator("at")
    @classmethod
    def _rising(cls, at: tuple[int, ...]) -> tuple[int, ...]:
        if list(at) != sorted(set(at)):
            raise ValueError(f"depths rise, each once, found {list(at)}; write {sorted(set(at))}")
        return at

    def build(self, backbone: Backbone, width: int) -> Exits:
        raise NotImplementedError(f"{type(self).__name__} does not say how it is built")


class ConditioningSpec(Part):
    """How time and prompt reach the tokens. One that provides `packs` gives each clip of a packed row its own."""

    slot: ClassVar[str] = "conditioning"

    def check(self, model: ModelSpec) -> str | None:
        """Say why it cannot condition such a model and what to do, or return None if it can."""
        return None

    def build(self, width: int) -> Conditioning:
        raise NotImplementedError(f"{type(self).__name__} does not say how it is built")


class PositionsSpec(Part):
    """How tokens know their place in a grid."""

    slot: ClassVar[str] = "positions"

    def check(self, width: int, heads: int, rank: int) -> str | None:
        """Say why a network of such a width, heads and number of axes cannot have them and what to do, or return None if it can."""
        return None

    def remark(self, grid: Sequence[int], trained: Sequence[int]) -> str | None:
        """Say what about the places on a grid is not as on those of training and should be known, or return None if nothing is."""
        return None

    def build(self, width: int, heads: int, trained: Sequence[int]) -> Positions:
        """Build for a network trained on grids of the size `trained`."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it is built")


class AttentionSpec(Part):
    """Which tokens of a grid look at which, block by block."""

    slot: ClassVar[str] = "attention"

    def build(self) -> Pattern:
        raise NotImplementedError(f"{type(self).__name__} does not say how it is built")


class PromptSpec(Part):
    """What a user may ask for. `argument` is the name of the argument of `sample` that carries it, `beside` those that may go with it.

    Where some of these are given, `parse` gets a table of them all for each picture in place of what `argument` carries alone.
    """

    slot: ClassVar[str] = "prompt"
    argument: ClassVar[str | None] = None
    beside: ClassVar[tuple[str, ...]] = ()

    @property
    def item_classes(self) -> int | None:
        """The number of classes that items are of, or None where they are no classes."""
        return None

    def parse(self, asked: Sequence[Any]) -> list[Any]:
        """Check what the user asked for and return one item a picture, ready for `Prompt.encode`."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it understands")

    def default(self, count: int) -> list[Any]:
        """Return `count` items to show when nothing was asked for."""
        raise NotImplementedError(f"{type(self).__name__} does not say what to show by default")

    def caption(self, item: Any) -> str:
        """Return what to write under the picture of `item`."""
        return str(item)

    def check(self, model: ModelSpec) -> str | None:
        """Say why such a model cannot be asked this way and what to do, or return None if it can."""
        return None

    def build(self, width: int) -> Prompt:
        raise NotImplementedError(f"{type(self).__name__} does not say how it is built")


class ScheduleSpec(Part):
    """Noise over time, and what the network predicts. `family` is the path: variance preserving or flow."""

    slot: ClassVar[str] = "schedule"
    family: ClassVar[str] = "vp"
    free_fields: ClassVar[frozenset[str]] = frozenset()  # may differ from training: how steps are spaced, say

    prediction: str

    @property
    def max_steps(self) -> int | None:
        """The number of distinct times the network knows, or None where time is continuous."""
        return None

    def at(self, size: Sequence[int]) -> Self:
        """Return the schedule for latents of another size than that of training, where it depends on the size."""
        return self

    def build(self) -> Schedule:
        raise NotImplementedError(f"{type(self).__name__} does not say how it is built")


class SpacingSpec(Part):
    """Which times of a schedule are walked. `discrete` is true where it speaks of trained steps."""

    slot: ClassVar[str] = "spacing"
    discrete: ClassVar[bool] = False

    def build(self) -> Spacing:
        raise NotImplementedError(f"{type(self).__name__} does not say how it is built")


class SamplerSpec(Part):
    """How noise becomes data, step by step."""

    slot: ClassVar[str] = "sampler"
    adaptations: ClassVar[tuple[tuple[str, ...], ...]] = ()  # settings over a model, any of which may make a refused pair fit

    @property
    def promised_order(self) -> int | None:
        """The order of convergence that this sampler has on a smooth path, or None where it promises none."""
        return None

    def seen(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return how much of a latent of `size` the network sees at once."""
        return tuple(size)

    def check_steps(self, steps: int) -> str | None:
        """Say why this sampler cannot do what it says in so many steps and what to do, or return None if it can."""
        return None

    def check(self, model: ModelSpec) -> str | None:
        """Say why such a model cannot be sampled this way and what to do, or return None if it can."""
        return None

    def build(self) -> Sampler:
        raise NotImplementedError(f"{type(self).__name__} does not say how it is built")


class PolicySpec(Part):
    """How much of the backbone each look of a run uses."""

    slot: ClassVar[str] = "policy"

    def check(self, model: ModelSpec) -> str | None:
        """Say why such a model cannot be looked at this way and what to do, or return None if it can."""
        return None

    def build(self) -> DepthPolicy:
        raise NotImplementedError(f"{type(self).__name__} does not say how it is built")


class CodecSpec(Part):
    """How pixels become latents and latents pixels. `factor` is how many pixels one latent cell spans on rows and on columns.

    Of a clip the first latent frame is the first frame, and each other one spans `time_factor` frames: (frames - 1) / time_factor + 1.
    """

    slot: ClassVar[str] = "codec"

    channels: Positive
    scale: float = 1.0
    shift: float = 0.0
    factor: Positive = 1
    time_factor: Positive = 1

    @property
    def pixel_channels(self) -> int:
        return self.channels

    def latent(self) -> Latent:
        return Latent(channels=self.channels, scale=self.scale, shift=self.shift)

    def latent_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return the latent size of pictures (H, W) or clips (T, H, W); raise `ValueError` naming the nearest sizes that fit."""
        *frames, height, width = size
        for count in frames:
            if (count - 1) % self.time_factor:
                below = (count - 1) // self.time_factor * self.time_factor + 1
                raise ValueError(
                    f"{count} frames are not one and a multiple of codec.time_factor={self.time_factor}; nearest: {below}, "
                    f"{below + self.time_factor}"
                )
        for extent in (height, width):
            if extent % self.factor:
                below, above = extent // self.factor * self.factor, -(-extent // self.factor) * self.factor
                raise ValueError(
                    f"{extent} pixels are not a multiple of codec.factor={self.factor}; nearest: {max(below, self.factor)}, {above}"
                )
        return (*((count - 1) // self.time_factor + 1 for count in frames), height // self.factor, width // self.factor)

    def pixel_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return the size of the pictures or clips whose latents are of `size`."""
        *frames, height, width = size
        return (*((count - 1) * self.time_factor + 1 for count in frames), height * self.factor, width * self.factor)

    def build(self) -> Codec:
        raise NotImplementedError(f"{type(self).__name__} does not say how it is built")


class DatasetSpec(Part):
    """Pictures with labels. The class attributes let a recipe be checked before any file is opened."""

    slot: ClassVar[str] = "dataset"

    @property
    def item_size(self) -> tuple[int, ...]:
        """The pixel size of an item, (H, W) or (T, H, W); the largest where they differ."""
        raise NotImplementedError(f"{type(self).__name__} does not say the size of its items")

    @property
    def item_sizes(self) -> tuple[tuple[int, ...], ...]:
        """The pixel sizes that items have, where they are not all of one."""
        return (self.item_size,)

    @property
    def item_channels(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} does not say the channels of its items")

    @property
    def item_classes(self) -> int | None:
        """The number of classes of the labels, or None where only the files tell."""
        return None

    @property
    def coded_by(self) -> Mapping[str, Any] | None:
        """The codec, as data, that made its items latents already; None where they are pictures."""
        return None

    def build(self) -> Dataset:
        raise NotImplementedError(f"{type(self).__name__} does not say how it is built")


class FeaturesSpec(Part):
    """A network by whose features pictures are compared. `distance` is what a Fréchet distance over them may be called."""

    slot: ClassVar[str] = "features"
    distance: ClassVar[str] = "Fréchet distance"

    @property
    def item_classes(self) -> int | None:
        """The number of classes that it tells apart, or None."""
        return None

    def build(self) -> Features:
        raise NotImplementedError(f"{type(self).__name__} does not say how it is built")


class LossSpec(Part):
    """An extra term of the training loss, which weighs `weight`. One that provides `packs` takes packed clips too."""

    slot: ClassVar[str] = "loss"

    weight: float = Field(1.0, gt=0)

    def check(self, model: ModelSpec) -> str | None:
        """Say why this term cannot be had of such a model and what to do, or return None if it can."""
        return None

    def build(self, model: ModelSpec) -> Loss:
        raise NotImplementedError(f"{type(self).__name__} does not say how it is built")


class RuntimeSpec(Part):
    """How a model is prepared to run where no gradients are asked for. What it computes stays the same up to rounding, unless `lossy`
    says what changes; an exact one is no part of what a lock or an evaluation pins.

    `default` is true of the one that loaded models have where none is named.
    """

    slot: ClassVar[str] = "runtime"
    lossy: ClassVar[str | None] = None
    default: ClassVar[bool] = False

    def build(self) -> Runtime:
        raise NotImplementedError(f"{type(self).__name__} does not say how it is built")


BackboneSlot = Annotated[SerializeAsAny[BackboneSpec], BeforeValidator(from_zoo(BackboneSpec))]
ConditioningSlot = Annotated[SerializeAsAny[ConditioningSpec], BeforeValidator(from_zoo(ConditioningSpec))]
PromptSlot = Annotated[SerializeAsAny[PromptSpec], BeforeValidator(from_zoo(PromptSpec))]
ScheduleSlot = Annotated[SerializeAsAny[ScheduleSpec], BeforeValidator(from_zoo(ScheduleSpec))]
SamplerSlot = Annotated[SerializeAsAny[SamplerSpec], BeforeValidator(from_zoo(SamplerSpec))]
CodecSlot = Annotated[SerializeAsAny[CodecSpec], BeforeValidator(from_zoo(CodecSpec))]
DatasetSlot = Annotated[SerializeAsAny[DatasetSpec], BeforeValidator(from_zoo(DatasetSpec))]
FeaturesSlot = Annotated[SerializeAsAny[FeaturesSpec], BeforeValidator(from_zoo(FeaturesSpec))]
SpacingSlot = Annotated[SerializeAsAny[SpacingSpec], BeforeValidator(from_zoo(SpacingSpec))]
ExitsSlot = Annotated[SerializeAsAny[ExitsSpec], BeforeValidator(from_zoo(ExitsSpec))]
PolicySlot = Annotated[SerializeAsAny[PolicySpec], BeforeValidator(from_zoo(PolicySpec))]
PositionsSlot = Annotated[SerializeAsAny[PositionsSpec], BeforeValidator(from_zoo(PositionsSpec))]
AttentionSlot = Annotated[SerializeAsAny[AttentionSpec], BeforeValidator(from_zoo(AttentionSpec))]
LossSlot = Annotated[SerializeAsAny[LossSpec], BeforeValidator(from_zoo(LossSpec))]
RuntimeSlot = Annotated[SerializeAsAny[RuntimeSpec], BeforeValidator(from_zoo(RuntimeSpec))]

SLOTS: dict[str, type[Part]] = {
    base.slot: base
    for base in (
        BackboneSpec,
        ConditioningSpec,
        PromptSpec,
        ScheduleSpec,
        SamplerSpec,
        CodecSpec,
        DatasetSpec,
        FeaturesSpec,
        LossSpec,
        SpacingSpec,
        ExitsSpec,
        PolicySpec,
        RuntimeSpec,
        PositionsSpec,
        AttentionSpec,
    )
}
