"""A recipe: everything that decides a training run, as one TOML file. Imports no torch.

`model` is a catalogue name or a whole model spec. Whatever can be wrong between data and model is refused here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from ditzoo.catalogue import override, read_toml
from ditzoo.errors import SpecError, UnknownNameError, listed, suggest
from ditzoo.evaluation.protocol import Expectation
from ditzoo.model_spec import ModelSpec
from ditzoo.sources import resolve
from ditzoo.specs import DatasetSlot, DatasetSpec, LossSlot, Spec, shape
from ditzoo.training.adapter import Adapter
from ditzoo.training.mixing import Mixing, unmixed
from ditzoo.training.tables import Length, Objective, Optimizer, Output, Start, Validation
from ditzoo.zoo import Zoo


def _named_model(value: Any, info: Any) -> Any:
    if isinstance(value, str) and info.context is not None:
        value = info.context.catalogue.read(info.context.catalogue.find(value))
    if isinstance(value, Mapping):
        value = {name: field for name, field in value.items() if name != "weights"}  # this run makes its own
    return value


class Recipe(Spec):
    """One training run. Where `start` names a model, `model` may hold what is changed of it alone, by top-level fields."""

    name: str
    seed: int = Field(0, ge=0)
    model: Annotated[ModelSpec, BeforeValidator(_named_model)]
    start: Start | None = None
    adapter: Adapter | None = None
    data: DatasetSlot
    mixing: Mixing | None = None
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

    @model_validator(mode="after")
    def _sizes_are_mixed(self) -> Recipe:
        problem = unmixed("data", self.data) if self.mixing is None else self.mixing.problem(self)
        if problem and self.mixing is None:
            problem += "; set mixing={kind='packed', tokens=...} or {kind='one-size'}, or give data of one size"
        if problem is None and self.validation is not None and (problem := unmixed("validation.data", self.validation.data)):
            problem += "; give it data of one size"
        if problem:
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _frames_can_be_given(self) -> Recipe:
        if self.objective.by_frame and "frame-times" not in self.model.backbone.provides_now:
            raise ValueError(
                f"objective.given={self.objective.given:g} and rising={self.objective.rising:g} give frames times of their own, which "
                f"backbone '{self.model.backbone.kind}' as declared does not take; set model.backbone.frame_times=true on one that can, "
                f"or leave them out"
            )
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
        for size in data.item_sizes:
            try:
                latent = codec.latent_size(size)
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
