"""Layouts: the names and forms that a model's weights have elsewhere, as tables used in both directions. No torch.

A layout's table is a list of rows. A row pairs names there (`theirs`) with names here (`ours`), and says how tensors pass
between them: as they are, as rows of one matrix, reshaped, as equal copies, or computed. From the table come the translation
both ways, the exact set of names and shapes that a file must hold, and the proof that nothing is left over.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ditzoo.errors import LayoutError, PluginError, listed

if TYPE_CHECKING:
    from torch import Tensor

    from ditzoo.model_spec import ModelSpec

Data = dict[str, Any]


class Row(ABC):
    """Some tensors under their names, and the same under ours."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]

    @abstractmethod
    def read(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Turn theirs into ours, as views wherever it can be."""

    @abstractmethod
    def write(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Turn ours into theirs; on meta tensors too, which is how shapes are known beforehand."""


@dataclass(frozen=True)
class Same(Row):
    """One tensor, under two names."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]

    def read(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return list(tensors)

    def write(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return list(tensors)


@dataclass(frozen=True)
class Stacked(Row):
    """Several of ours, of one shape, as the rows of one of theirs: q, k and v as `qkv`."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]

    def read(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return list(tensors[0].chunk(len(self.ours)))

    def write(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        import torch

        return [torch.cat(list(tensors))]


@dataclass(frozen=True)
class Reshaped(Row):
    """One tensor in two shapes with the same order of numbers: a convolution's weight as a linear layer's."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    shape: tuple[int, ...]  # theirs

    def read(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [tensors[0].flatten(1)]

    def write(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [tensors[0].reshape(self.shape)]


@dataclass(frozen=True)
class Swapped(Row):
    """One tensor whose two halves are the other way round: scale before shift there, shift before scale here."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]

    def read(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        import torch

        first, second = tensors[0].chunk(2)
        return [torch.cat([second, first])]

    def write(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return self.read(tensors)


@dataclass(frozen=True)
class Copies(Row):
    """One of ours, which they keep in several equal copies. Copies that differ are refused: one cannot stand for them."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]

    def read(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        first = tensors[0]
        for name, other in zip(self.theirs[1:], tensors[1:], strict=True):
            if not other.equal(first):
                raise LayoutError(
                    f"{name} differs from {self.theirs[0]}: the copies were trained apart, and this model has one tensor for all "
                    f"{len(self.theirs)}; average them, or train on from weights whose copies are equal"
                )
        return [first]

    def write(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [tensors[0]] * len(self.theirs)


@dataclass(frozen=True)
class Computed(Row):
    """A tensor that they store and that we compute, such as a position table; read only to see that it is the same.

    Within `tolerance`: the published training code averages its frozen table too, which moves it by rounding, 1.6e-4 at most.
    """

    theirs: tuple[str, ...]
    make: Callable[[], Tensor]
    ours: tuple[str, ...] = ()
    tolerance: float = 1e-3

    def read(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        expected = self.make()
        apart = float((tensors[0].float() - expected).abs().max())
        if not apart <= self.tolerance:
            raise LayoutError(
                f"{self.theirs[0]} is up to {apart:.3g} off the table that this model computes; it was made for another grid or was "
                f"trained, and this backbone cannot hold it"
            )
        return []

    def write(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [self.make()]


@dataclass(frozen=True)
class Inspection:
    """What keys and shapes tell of a checkpoint: parts as data by slot, how that was seen, and what they cannot tell.

    `open` maps a path of the spec to a sentence; each must be answered by a setting before the checkpoint can be used.
    """

    parts: dict[str, Data]
    notes: tuple[str, ...] = ()
    open: Mapping[str, str] = field(default_factory=dict)


class Layout(ABC):
    """One way to lay out a checkpoint. `family` is what `ditzoo convert --to` calls it; `numerics` the arithmetic it means.

    `marks` are keys that every such checkpoint has. `files` are where its weights lie in a repository, without suffix.
    `classes` are diffusers' names of the network, `pipeline` of the pipeline and `members` its other folders, for layouts
    that are whole repositories with configs. `means` are fields of a spec, by path, that every model read in this layout has.
    """

    name: ClassVar[str]
    family: ClassVar[str]
    marks: ClassVar[tuple[str, ...]] = ()
    files: ClassVar[tuple[str, ...]] = ("model",)
    classes: ClassVar[frozenset[str]] = frozenset()
    pipeline: ClassVar[str | None] = None
    members: ClassVar[tuple[str, ...]] = ()
    means: ClassVar[Mapping[str, object]] = {}

    @abstractmethod
    def rows(self, spec: ModelSpec, own: Mapping[str, Tensor]) -> list[Row]:
        """Return the table for a model, given its own tensors by name (on meta)."""

    def pipeline_of(self, spec: ModelSpec) -> str | None:
        """Return the pipeline that a model is written as."""
        return self.pipeline

    def members_of(self, spec: ModelSpec) -> tuple[str, ...]:
        """Return the other folders of the pipeline that a model is written as."""
        return self.members

    def refuse(self, spec: ModelSpec) -> str | None:
        """Say why a model is not the same function once written in this layout and read back, and the way out; else None."""
        unlike = [
            f"{path}={found}, where it means {meant}" for path, meant in self.means.items() if (found := value_at(spec, path)) != meant
        ]
        return f"this model has {'; '.join(unlike)}; --set these if they are what you want" if unlike else None

    def inspect(self, tensors: Mapping[str, Tensor]) -> Inspection:
        """Read the structure off keys and shapes. Called where every mark is there."""
        raise LayoutError(f"layout '{self.name}' does not tell a model's structure; give a spec: SPEC.toml with [weights] file and layout")

    def reads(self, config: Data) -> bool:
        """Say whether a config.json of one of `classes` is of this network, where several share a class."""
        return True

    def read_config(self, config: Data) -> dict[str, Data]:
        """Return parts from the network's config.json; raise `LayoutError` for what no part can express."""
        raise LayoutError(f"layout '{self.name}' has no config.json")

    def read_index(self, index: Data, parts: Mapping[str, Data]) -> dict[str, Data]:
        """Return fields by slot that only the whole pipeline tells, given its model_index.json and what has been read of its members."""
        return {}

    def write_config(self, spec: ModelSpec) -> Data:
        """Return the network's config.json, `_class_name` included."""
        raise LayoutError(f"layout '{self.name}' has no config.json")

    def their_output(self, folder: Path, x: Tensor, t: Tensor, items: Sequence[Any]) -> Tensor | None:
        """Return what the library that this layout belongs to computes from a written folder; None where there is no such library."""
        return None

    def their_network(self, spec: ModelSpec) -> Any:
        """Return the network of that library in a model's shape, with fresh weights; None where there is none of that shape."""
        return None

    def defaults(self) -> dict[str, Data]:
        """Return what the pipeline of this layout does when not told otherwise: `guidance`, `sampling`."""
        return {}


class Component(ABC):
    """A part of a diffusers pipeline other than the network, as parts of a spec and back: a scheduler, an autoencoder."""

    classes: ClassVar[frozenset[str]]
    folder: ClassVar[str]
    config: ClassVar[str]
    library: ClassVar[str] = "diffusers"  # that its classes are of

    def writes(self, member: str) -> bool:
        """Say whether a folder of a pipeline is one that this writes."""
        return member == self.folder

    def class_of(self, config: Data) -> str:
        """Return the class that a written config names."""
        return str(config["_class_name"])

    @abstractmethod
    def read(self, name: str, config: Data, source: Data) -> dict[str, Data | str]:
        """Return parts by slot from a class name and its config; a sentence in place of a part says why there is none.

        `source` tells a part that opens files by itself where they are: `source`, `subfolder` and maybe `revision`.
        """

    @abstractmethod
    def write(self, spec: ModelSpec, folder: Path | None) -> str | None:
        """Write config and files into a folder and return None; or, with `folder` None, only say why it cannot be done."""


class Own(Layout):
    """ditzoo's own names."""

    name = "ditzoo"
    family = "ditzoo"

    def rows(self, spec: ModelSpec, own: Mapping[str, Tensor]) -> list[Row]:
        return [Same((name,), (name,)) for name in own]


def linear(theirs: str, ours: str) -> list[Row]:
    """Return the rows of a linear layer: its weight and its bias."""
    return [Same((f"{theirs}.{leaf}",), (f"{ours}.{leaf}",)) for leaf in ("weight", "bias")]


def convolution(theirs: str, ours: str, shape: tuple[int, ...]) -> list[Row]:
    """Return the rows of a patch embedding: a convolution of a weight's shape there, a linear layer over flattened patches here."""
    return [Reshaped((f"{theirs}.weight",), (f"{ours}.weight",), shape), Same((f"{theirs}.bias",), (f"{ours}.bias",))]


def expanded(table: Mapping[str, str], depth: int) -> list[Row]:
    """Return the rows of a table of linear layers: those with `{i}` once a block."""
    return [
        row
        for theirs, ours in table.items()
        for i in range(depth if "{i}" in theirs else 1)
        for row in linear(theirs.format(i=i), ours.format(i=i))
    ]


def value_at(spec: ModelSpec, path: str) -> object:
    """Return the value at a path like `backbone.numerics`; None where the part has no such field."""
    found: object = spec
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def checked(layout: Layout, rows: Sequence[Row], own: Iterable[str]) -> Sequence[Row]:
    """Return the rows if they name every tensor of the model once; else the layout's table is wrong, and is named."""
    named = [name for row in rows for name in row.ours]
    wrong = set(named) ^ set(own) or {name for name in named if named.count(name) > 1}
    if wrong:
        raise PluginError(f"layout '{layout.name}' does not pair each tensor of this model once: {listed(sorted(wrong))}")
    return rows


def to_ours(rows: Iterable[Row], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate a whole checkpoint; every name in the rows must be there."""
    return {name: tensor for row in rows for name, tensor in zip(row.ours, row.read([tensors[k] for k in row.theirs]), strict=True)}


def to_theirs(rows: Iterable[Row], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate a whole model into a layout's names."""
    return {name: tensor for row in rows for name, tensor in zip(row.theirs, row.write([own[k] for k in row.ours]), strict=True)}
