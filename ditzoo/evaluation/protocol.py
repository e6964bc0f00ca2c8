"""A protocol: everything that decides an evaluation, as one TOML file. Imports no torch.

Two numbers are comparable only where the protocol is one: sampler, steps, guidance, count, seeds, network, reference.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from ditzoo.catalogue import override, read_toml
from ditzoo.errors import EvaluationError, SamplingError, UnknownNameError, listed, suggest
from ditzoo.model_spec import ModelSpec
from ditzoo.request import adjusted
from ditzoo.specs import DatasetSlot, FeaturesSlot, Positive, Size, Spec, shape
from ditzoo.zoo import Zoo

if TYPE_CHECKING:
    from ditzoo.interfaces import Dataset

FIGURES = ("frechet", "kid", "precision", "recall", "class_confidence", "label_agreement", "attribute_agreement", "consistency")


class Expectation(Spec):
    """What a recipe promises: a protocol, and the band that each named figure of a finished run lands in."""

    protocol: str = Field(description="a file, or the name of one that ships")
    band: dict[str, tuple[float, float]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known(self) -> Expectation:
        for name, (low, high) in self.band.items():
            if name not in FIGURES:
                raise ValueError(f"band of an unknown figure '{name}'{suggest(name, FIGURES)} (figures: {listed(FIGURES)})")
            if low > high:
                raise ValueError(f"band of {name} is {low:g} to {high:g}; the lower end comes first")
        return self

    def verdict(self, means: Mapping[str, float]) -> dict[str, dict[str, Any]]:
        """Return for each figure of the band its value, the band and whether it is `within`; a figure not measured is not."""
        found: dict[str, dict[str, Any]] = {}
        for name, (low, high) in self.band.items():
            value = means.get(name)
            found[name] = {"value": value, "band": [low, high], "within": value is not None and low <= value <= high}
        return found


class Protocol(Spec):
    """One way to measure a model.

    `settings` are laid over the model's spec (`"sampler.kind=ddim"`); what they leave is the model's own. `count` pictures are drawn
    for each of `seeds`, labels in turn, and compared with all of `reference`. `floor` are real pictures that the reference does not
    hold: the same figures for them say how near two sets of real pictures are. The hashes of both sets' content pin them. With `asked`
    pictures are drawn for its items in order, captions say, in place of labels in turn. With `sizes` chunks are of these sizes in turn.
    """

    name: str
    settings: tuple[str, ...] = ()
    count: Positive
    seeds: tuple[int, ...] = (0,)
    chunk: Positive = Field(250, description="pictures drawn, seen and stored at a time: what an interrupted evaluation loses at most")
    sizes: tuple[Size, ...] = Field((), description="pixel sizes, (H, W) or (T, H, W), of chunks in turn; none: the model's own")
    features: FeaturesSlot
    reference: DatasetSlot
    reference_sha256: str | None = None
    asked: DatasetSlot | None = None
    floor: DatasetSlot | None = None
    floor_sha256: str | None = None
    neighbours: Positive = Field(5, description="k of precision and recall")
    kid_subsets: Positive = 100
    kid_subset_size: Positive = 1000
    resamples: Positive = Field(200, description="bootstrap resamples of an interval")
    notes: str = ""

    @model_validator(mode="after")
    def _sensible(self) -> Protocol:
        if len(set(self.seeds)) < len(self.seeds) or not self.seeds:
            raise ValueError(f"seeds are {self.seeds}; name each once, and at least one")
        if self.kid_subset_size > self.count:
            raise ValueError(f"kid_subset_size={self.kid_subset_size} is more than count={self.count}; set it to at most that")
        if self.floor_sha256 is not None and self.floor is None:
            raise ValueError("floor_sha256 without a floor; name the dataset")
        if self.sizes and {len(size) for size in self.sizes} not in ({2}, {3}):
            raise ValueError(f"sizes are (height, width), or (frames, height, width) of all, found {listed(map(shape, self.sizes))}")
        chunks = -(-self.count // self.chunk)
        if len(self.sizes) > chunks:
            raise ValueError(f"{len(self.sizes)} sizes and {chunks} chunks, and each size needs one; lower chunk={self.chunk}")
        return self

    def digest(self) -> str:
        """Return a hash of what decides the figures."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json", exclude={"notes", "name"}), sort_keys=True).encode()).hexdigest()

    def asking(self) -> Dataset | None:
        """Open the dataset whose items are asked for; raise `EvaluationError` if it has too few."""
        if self.asked is None:
            return None
        dataset = self.asked.build()
        if len(dataset) < self.count:
            raise EvaluationError(f"protocol '{self.name}' asks for {self.count} items of '{self.asked.kind}', which has {len(dataset)}")
        return dataset

    def check(self, spec: ModelSpec) -> None:
        """Raise `EvaluationError` if a model's pictures are not of the sizes and channels that are compared, or cannot be of these."""
        drawn, channels = set(self.sizes) or {spec.pixel_size()}, spec.codec.pixel_channels
        for what, data in (("reference", self.reference), ("floor", self.floor)):
            held = set() if data is None else set(map(tuple, data.item_sizes))
            if data is not None and (held != drawn or data.item_channels != channels):
                raise EvaluationError(
                    f"'{spec.name}' draws {_listed(channels, drawn)} pictures, and {what} '{data.kind}' of protocol '{self.name}' "
                    f"holds {_listed(data.item_channels, held)}; use a protocol for this size"
                )
        for index in range(len(self.sizes)):
            try:
                adjusted(spec, **self.size_of(index))
            except SamplingError as error:
                raise EvaluationError(f"protocol '{self.name}' asks for {shape(self.sizes[index])} pictures: {error}") from error

    def size_of(self, chunk: int) -> dict[str, int]:
        """Return the arguments of `sample` that say the size of a chunk; none for the model's own."""
        if not self.sizes:
            return {}
        size = self.sizes[chunk % len(self.sizes)]
        return dict(zip(("num_frames", "height", "width")[-len(size) :], size, strict=True))


def _listed(channels: int, sizes: Iterable[tuple[int, ...]]) -> str:
    return listed(shape((channels, *size)) for size in sorted(sizes))


def read_protocol(source: str, zoo: Zoo, settings: Iterable[str] = ()) -> Protocol:
    """Read a protocol from a TOML file, or one that ships by its name."""
    path = Path(source)
    if not path.is_file():
        known = zoo.catalogue.protocols
        if source not in known:
            raise UnknownNameError(
                f"no protocol '{source}': neither a file nor one that ships{suggest(source, known)} (shipped: {listed(known)})"
            )
        path = known[source]
    data = read_toml(path)
    data.setdefault("name", path.stem)
    return zoo.validate(Protocol, override(data, settings), source=str(path))
