"""The tables of a recipe: optimiser, objective, validation, length, output, start. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ditzoo.specs import DatasetSlot, Positive, Spec


class Optimizer(Spec):
    """AdamW with a linear warm-up and a constant, cosine or linear tail."""

    lr: float = Field(1e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float | None = Field(1.0, gt=0)
    skip_above: float | None = Field(
        None, gt=0, description="steps whose gradient norm is above this are left out, as those not finite are"
    )
    max_skipped: Positive = Field(10, description="so many steps left out in a row end the run")
    warmup: int = Field(0, ge=0)
    decay: Literal["constant", "cosine", "linear"] = "constant"
    final_lr: float = Field(0.0, ge=0, description="share of lr at the end of a decay")

    def factor(self, step: int, steps: int) -> float:
        """Return what lr is multiplied by in step `step` (from 0) of `steps`."""
        import math

        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        done = (step - self.warmup) / max(steps - self.warmup, 1)
        shapes = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
        return self.final_lr + (1 - self.final_lr) * shapes[self.decay] if self.decay != "constant" else 1.0


class Objective(Spec):
    """Which times are drawn, and what errors at them weigh.

    `times`: `uniform`; `stratified`, uniform and evenly spread over each batch; `logit-normal` with `mean` and `deviation`.
    `weighting`: `uniform` over the native prediction; `min-snr`, which weighs the error of x_0 by min(SNR, gamma); or `velocity`, which
    weighs errors as those of a velocity whatever is predicted (Li and He 2025).
    """

    times: Literal["uniform", "stratified", "logit-normal"] = "uniform"
    mean: float = 0.0
    deviation: float = Field(1.0, gt=0)
    weighting: Literal["uniform", "min-snr", "velocity"] = "uniform"
    gamma: float = Field(5.0, gt=0)
    given: float = Field(0.0, ge=0, le=1, description="share of the clips of which some frames are given, and not learned")
    rising: float = Field(0.0, ge=0, le=1, description="share of the clips whose times rise from frame to frame")

    @property
    def by_frame(self) -> bool:
        """Whether some frames have times of their own."""
        return self.given + self.rising > 0

    @model_validator(mode="after")
    def _shares(self) -> Objective:
        if self.given + self.rising > 1:
            raise ValueError(f"given={self.given:g} and rising={self.rising:g} are shares of the clips, and together more than 1")
        return self


class Validation(Spec):
    """Loss of the averaged weights on other data, by noise level, every so many steps."""

    data: DatasetSlot
    every: Positive = 1000
    items: Positive = 512
    bins: Positive = 8

    @model_validator(mode="after")
    def _enough(self) -> Validation:
        if self.items < self.bins:
            raise ValueError(f"items={self.items} is fewer than bins={self.bins}; every bin needs one")
        return self


class Length(Spec):
    """How long and in what portions. Batch size is that of one optimiser step over all processes."""

    steps: Positive
    batch_size: Positive
    accumulate: Positive = 1
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    ema: float = Field(0.9999, ge=0, lt=1, description="decay of the average of weights; 0 keeps none")
    ema_warmup: bool = True
    segments: int = Field(0, ge=0, description="parts of the blocks whose activations are computed anew in the backward pass; 0 keeps all")
    workers: int = Field(0, ge=0)
    shard: bool = Field(False, description="FSDP2: each process keeps a share of weights, gradients, moments and averages")
    compile: bool = Field(False, description="torch.compile, block by block")

    @model_validator(mode="after")
    def _whole(self) -> Length:
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size={self.batch_size} is not divisible by accumulate={self.accumulate}")
        return self


class Output(Spec):
    """What is written while training: the log, checkpoints, sample grids."""

    log_every: Positive = 50
    checkpoint_every: Positive = 1000
    keep: Positive = 2
    sample_every: int = Field(0, ge=0, description="0 draws none")
    samples: Positive = 40
    tensorboard: bool = False


class Start(Spec):
    """Weights to begin with, and which of the model's parameters are trained; patterns have the wildcards * ? []."""

    model: str = Field(description="a catalogue name, hf-hub:, local-dir: or local-file:, as ditzoo.load takes it")
    fresh: tuple[str, ...] = Field((), description="names of parameters that begin as they are built, whatever its weights have")
    train: tuple[str, ...] = Field(("*",), description="names of parameters that are trained; the others stay as they are")
