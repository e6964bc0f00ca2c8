"""What every part spec derives from, and how a part given as data finds its class. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from ditzoo.errors import listed, suggest

if TYPE_CHECKING:
    from ditzoo.zoo import Zoo

Positive = Annotated[int, Field(gt=0)]
Size = tuple[Positive, ...]


class Spec(BaseModel):
    """Base of all declarations: frozen, and strict about field names."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            for name in data:
                if name not in cls.model_fields:
                    raise PydanticCustomError(
                        "ditzoo",
                        "unknown field '{name}'{near} (fields: {fields})",
                        {
                            "name": name,
                            "near": suggest(name, cls.model_fields),
                            "fields": listed(cls.model_fields, limit=20),
                        },
                    )
        return data


class Latent(Spec):
    """The space that a backbone works in: channels, and how a codec's raw code is scaled: (code - shift) * scale."""

    channels: Positive
    scale: float = 1.0
    shift: float = 0.0


class Part(Spec):
    """One exchangeable piece. Subclasses set `slot`, narrow `kind` to a Literal, and build."""

    slot: ClassVar[str]
    provides: ClassVar[frozenset[str]] = frozenset()
    requires: ClassVar[frozenset[str]] = frozenset()
    expected_failures: ClassVar[Mapping[str, str]] = {}  # checks of ditzoo.testing that this part is known to fail, with the reason
    shorthand: ClassVar[str | None] = None  # the field that `"kind:text"` fills with the text

    kind: str

    @classmethod
    def examples(cls) -> dict[str, dict[str, Any]]:
        """Return tiny instances for tests and tables: fields by a name that tells variants of the kind apart, empty for the plain one."""
        return {"": {}}

    @property
    def provides_now(self) -> frozenset[str]:
        """What this part offers as it is declared: `provides`, unless a field adds or takes away."""
        return self.provides

    @property
    def requires_now(self) -> frozenset[str]:
        """What this part needs of the others as it is declared: `requires`, unless a field adds or takes away."""
        return self.requires

    def files_used(self) -> list[tuple[str, str | None, list[str]]]:
        """Return what this part opens by itself when used: (folder or repository, revision, patterns of files)."""
        return []

    def packed(self, folder: Path) -> Self:
        """Copy what this part needs of this machine into a saved model's folder, and return the part that finds it there.

        Such a part has `source = "."`, which reading the folder, or the repository it becomes, replaces by that place.
        """
        return self


def parts_in(declared: BaseModel) -> Iterator[Part]:
    """Yield every part of a declaration, those inside of other parts too."""
    for name in type(declared).model_fields:
        value = getattr(declared, name)
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, Part):
                yield one
            if isinstance(one, BaseModel):
                yield from parts_in(one)


def from_zoo(slot: type[Part]) -> Callable[[Any, Any], Any]:
    """Return the validator of a field that holds a part of a slot: an instance passes, data goes to the zoo in the context."""

    def resolve(value: Any, info: Any) -> Any:
        if isinstance(value, slot):
            return value
        zoo: Zoo | None = info.context
        if zoo is None:
            raise PydanticCustomError(
                "ditzoo", "a {slot} given as data needs a zoo: use zoo.model(...) or pass a {slot} spec", {"slot": slot.slot}
            )
        return zoo.part(slot.slot, value)

    return resolve


def shape(size: Sequence[int]) -> str:
    """Write a size as people do: `32x32`."""
    return "x".join(str(extent) for extent in size)
