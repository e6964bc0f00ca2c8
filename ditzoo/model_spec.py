"""The model spec: one part for each slot, guidance, weights and card. It validates only if its parts fit together."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ditzoo.errors import SamplingError
from ditzoo.places import inside
from ditzoo.specs import (
    BackboneSlot,
    CodecSlot,
    ConditioningSlot,
    ExitsSlot,
    Latent,
    Part,
    Positive,
    PromptSlot,
    RuntimeSlot,
    SamplerSlot,
    ScheduleSlot,
    Spec,
)


class Guidance(Spec):
    """Classifier-free guidance (Ho and Salimans 2022): out = null + scale * (cond - null).

    `interval` is the range of t (1 is noise) in which it acts; `channels` limits it to the first channels of the
    latent (the published DiT and SiT guide 3 of 4), `"all"` guides every one. `rescale` is how far the guided output is brought back to
    the deviation of the unguided one (Lin et al. 2023, eq. 14-16).
    """

    scale: float = Field(1.0, ge=0)
    interval: tuple[float, float] = (0.0, 1.0)
    channels: Positive | Literal["all"] = "all"
    rescale: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> Guidance:
        lo, hi = self.interval
        if not 0 <= lo <= hi <= 1:
            raise ValueError(f"interval must rise within 0 (data) to 1 (noise), found ({lo:g}, {hi:g})")
        return self


class Sampling(Spec):
    """What `sample` does when not told otherwise. Sizes are in pixels; None is the size of training."""

    steps: Positive = 50
    samples: Positive = 8
    height: Positive | None = None
    width: Positive | None = None
    num_frames: Positive | None = None
    fps: float = Field(8.0, gt=0, description="frames a second of what is written as video")


class Weights(Spec):
    """Where trained weights are and what they were trained for: the contract that a composition must keep.

    Without `repo` they lie beside the spec. `file` is a file there (weights, or the index of shards); without it the layout says
    where they lie. `entry` picks one of the state dicts that a training checkpoint holds.
    """

    file: str | None = None
    repo: str | None = Field(None, description="hub repository, owner/name")
    revision: str | None = Field(None, description="branch, tag or commit of the repository")
    layout: str = Field("ditzoo", description="whose names the file has")
    entry: str | None = None
    sha256: str | None = None
    schedule: ScheduleSlot
    latent: Latent

    @model_validator(mode="after")
    def _has_a_source(self) -> Weights:
        if self.file is None and self.repo is None and self.layout == "ditzoo":
            raise ValueError("name a file beside the spec, or a hub repo")
        if self.file is not None and not inside(self.file):
            raise ValueError(f"file '{self.file}' leaves its place; weights lie beside their spec, in the same folder or below")
        if self.revision is not None and self.repo is None:
            raise ValueError(f"revision '{self.revision}' without a repo; name the repository that has it")
        return self


class Card(Spec):
    """What is said of a model and cannot be computed: its origin, its training and its measured quality."""

    summary: str = ""
    paper: str = ""
    license: str = ""
    data: str = ""
    training: str = ""
    published: dict[str, float | str] = Field(default_factory=dict, description="figures that the source states")
    measured: dict[str, float | str] = Field(default_factory=dict, description="figures of our own, with their command")
    notes: str = ""


class ModelSpec(Spec):
    """One complete declarative description of a model. Its parts fit together, or it does not validate."""

    name: str
    aliases: tuple[str, ...] = ()
    backbone: BackboneSlot
    conditioning: ConditioningSlot
    prompt: PromptSlot
    schedule: ScheduleSlot
    sampler: SamplerSlot
    codec: CodecSlot
    exits: ExitsSlot | None = None
    runtime: RuntimeSlot | None = None
    guidance: Guidance = Guidance()
    sampling: Sampling = Sampling()
    weights: Weights | None = None
    card: Card = Card()

    @model_validator(mode="after")
    def _preflight(self) -> ModelSpec:
        from ditzoo.preflight import refuse

        refuse(self)
        return self

    @property
    def parts(self) -> dict[str, Part]:
        """The parts that this model has, by the field that holds each."""
        return {name: value for name in type(self).model_fields if isinstance(value := getattr(self, name), Part)}

    @property
    def readable(self) -> tuple[int, ...]:
        """The depths at which the backbone's stream can be read out, rising; the last is all of it."""
        given = self.exits.at if self.exits is not None else ()
        return tuple(sorted({*self.backbone.exits, *given, self.backbone.depth}))

    def pixel_size(self) -> tuple[int, ...]:
        """The size of a sample in pixels, (H, W) or (T, H, W): what `sampling` says, or the size of training."""
        trained = self.codec.pixel_size(self.backbone.input_size)
        asked = (self.sampling.num_frames, self.sampling.height, self.sampling.width)
        if self.sampling.num_frames is not None and len(trained) < 3:
            raise SamplingError(f"'{self.name}' makes pictures, not video: leave out num_frames={self.sampling.num_frames}")
        return tuple(size or own for size, own in zip(asked[-len(trained) :], trained, strict=True))

    def latent_size(self) -> tuple[int, ...]:
        return self.codec.latent_size(self.pixel_size())
