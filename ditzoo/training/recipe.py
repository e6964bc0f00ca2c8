"""A recipe: everything that decides a training run, as one TOML file. Imports no torch.

`model` is a catalogue name or a whole model spec. Whatever can be wrong between data and model is refused here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from ditzoo.catalogue import override, read_toml
from ditzoo.errors import SpecError, UnknownNameError, listed, suggest
from ditzoo.evaluation.protocol import Expectation
from ditzoo.model_spec import ModelSpec
from ditzoo.sources import resolve
from ditzoo.specs import DatasetSlot, DatasetSpec, LossSlot, Positive, Spec, shape
from ditzoo.training.adapter import Adapter
from ditzoo.zoo import Zoo


def _named_model(value: Any, info: Any) -> Any:
    if isinstance(value, str) and info.context is not None:
        value = info.context.catalogue.read(info.context.catalogue.find(value))
    if isinstance(value, Mapping):
        value = {name: field for name, field in value.items() if name != "weights"}  # this run makes its own
    return value


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
    `weighting`: `uniform` over the native prediction, or `min-snr`, which weighs the error of x_0 by min(SNR, gamma).
    """

    times: Literal["uniform", "stratified", "logit-normal"] = "uniform"
    mean: float = 0.0
    deviation: float = Field(1.0, gt=0)
    weighting: Literal["uniform", "min-snr"] = "uniform"
    gamma: float = Field(5.0, gt=0)


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
    fresh: tuple[str, ...] = Field((), description="names of parameters that its weights may lack; those begin as they are built")
    train: tuple[str, ...] = Field(("*",), description="names of parameters that are trained; the others stay as they are")


class Recipe(Spec):
    """One training run. Where `start` names a model, `model` may hold what is changed of it alone, by top-level fields."""

    name: str
    seed: int = Field(0, ge=0)
    model: Annotated[ModelSpec, BeforeValidator(_named_model)]
    start: Start | None = None
    adapter: Adapter | None = None
    data: DatasetSlot
    objective: Objective = Objective()
    losses: tuple[LossSlot, ...] = ()
    optimizer: Optimizer = Optimizer()
    length: Length
    validation: Validation | None = None
    output: Output = Output()
    evaluation: Expectation | None = None
    notes: str = ""

    @model_validator(mode="after")
    def _data_fits_model(self) -> Recipe:
        self._fits(self.data)
        if self.validation is not None:
            self._fits(self.validation.data)
        return self

    @model_validator(mode="after")
    def _adapter_has_a_base(self) -> Recipe:
        if self.adapter is None:
            return self
        if self.start is None:
            raise ValueError("adapter changes weights that there are; name them: start.model=NAME, or leave adapter out")
        if self.start.train != ("*",) or self.start.fresh:
            raise ValueError("with an adapter nothing else of the model is trained; leave start.train and start.fresh out, or adapter")
        if self.length.shard:
            raise ValueError("an adapter is trained whole in each process; set length.shard=false")
        return self

    @model_validator(mode="after")
    def _exits_are_trained(self) -> Recipe:
        if self.model.exits is not None and not any("trains-exits" in loss.provides_now for loss in self.losses):
            raise ValueError("model.exits are trained by none of the losses; add one: losses=[{kind='exits'}], or leave model.exits out")
        return self

    @model_validator(mode="after")
    def _losses_fit_model(self) -> Recipe:
        for loss in self.losses:
            problem = loss.check(self.model)
            if self.data.coded_by is not None:
                problem = f"it looks at pictures, and data '{self.data.kind}' holds latents; train from the pictures"
            if problem:
                raise ValueError(f"loss '{loss.kind}': {problem}")
        return self

    def _fits(self, data: DatasetSpec) -> None:
        codec, prompt = self.model.codec, self.model.prompt
        if data.coded_by is not None:
            ours = codec.model_dump(mode="json")
            told = data.coded_by
            differing = [f"{name} ({told.get(name)} there, {value} here)" for name, value in ours.items() if told.get(name) != value]
            if differing:
                raise ValueError(
                    f"data '{data.kind}' was coded by another codec: {', '.join(differing)}; "
                    f"write the latents again, or set model.codec back"
                )
        if data.item_channels != codec.pixel_channels:
            raise ValueError(
                f"data '{data.kind}' has {data.item_channels}-channel pictures and codec '{codec.kind}' takes "
                f"{codec.pixel_channels}; set data.channels or model.codec.channels to one of them"
            )
        try:
            latent = codec.latent_size(data.item_size)
        except ValueError as error:
            raise ValueError(f"data '{data.kind}': {error}") from error
        if problem := self.model.backbone.check_size(latent):
            raise ValueError(f"data '{data.kind}' gives latents of {shape(latent)}: {problem}")
        held, known = data.item_classes, prompt.item_classes
        if held is not None and known is not None and held > known:
            raise ValueError(f"data '{data.kind}' has {held} classes and prompt.classes is {known}; set model.prompt.classes={held}")

    def deciding(self) -> dict[str, object]:
        """Return the fields that bear on the result of the run, by dotted path; what is only written beside it is left out."""
        return {path: leaf for path, leaf in flat(json.loads(self.model_dump_json())).items() if not path.startswith(BESIDE)}

    def digest(self) -> str:
        """Return a hash of what decides the run's result."""
        return hashlib.sha256(json.dumps(self.deciding(), sort_keys=True).encode()).hexdigest()


# The start of fields that decide nothing of a run's weights.
BESIDE = (
    "output.",
    "notes",
    "validation",
    "evaluation",
    "length.workers",
    "length.segments",
    "length.shard",
    "length.compile",
    "model.card",
    "model.aliases",
    "model.sampler",
    "model.sampling",
    "model.guidance",
)


def flat(tree: object, prefix: str = "") -> dict[str, object]:
    """Flatten nested dicts to dotted paths."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {path: leaf for name, branch in tree.items() for path, leaf in flat(branch, f"{prefix}.{name}".lstrip(".")).items()}


def read_recipe(source: str, zoo: Zoo, settings: Iterable[str] = ()) -> Recipe:
    """Read a recipe from a TOML file, or one that ships by its name."""
    path = Path(source)
    if not path.is_file():
        if source not in zoo.catalogue.recipes:
            raise UnknownNameError(
                f"no recipe '{source}': neither a file nor one that ships{suggest(source, zoo.catalogue.recipes)} "
                f"(shipped: {listed(zoo.catalogue.recipes)})"
            )
        path = zoo.catalogue.recipes[source]
    data = read_toml(path)
    data.setdefault("name", path.stem)
    settings = list(settings)
    start = override(data, [setting for setting in settings if setting.startswith("start.")]).get("start")
    changed = data.get("model", {})
    if isinstance(start, Mapping) and isinstance(start.get("model"), str) and isinstance(changed, Mapping) and "backbone" not in changed:
        found = resolve(start["model"], zoo).spec
        data["model"] = found.model_dump(mode="json", exclude={"card", "aliases", "weights"}) | dict(changed)
    if isinstance(data.get("model"), str) and any(setting.startswith("model.") for setting in settings):
        data["model"] = zoo.catalogue.read(zoo.catalogue.find(data["model"]))
    recipe = zoo.validate(Recipe, override(data, settings), source=str(path))
    if recipe.length.steps <= recipe.optimizer.warmup:
        raise SpecError(f"{path}: optimizer.warmup={recipe.optimizer.warmup} leaves nothing of length.steps={recipe.length.steps}")
    return recipe
