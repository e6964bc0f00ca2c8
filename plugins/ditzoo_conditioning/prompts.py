"""Prompts: `none`, for models that are asked for nothing, and `label`, a table of classes with a null row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from ditzoo.errors import SamplingError, UnknownNameError, listed, suggest
from ditzoo.specs import Positive, PromptSpec

if TYPE_CHECKING:
    from ditzoo.interfaces import Prompt


class NoneSpec(PromptSpec):
    """No prompt: a zero vector and no tokens."""

    kind: Literal["none"] = "none"
    provides: ClassVar[frozenset[str]] = frozenset({"prompt-vec", "prompt-tokens"})

    def parse(self, asked: Sequence[Any]) -> list[Any]:
        if any(item is not None for item in asked):
            raise SamplingError(f"this model takes no prompt, found {listed(asked)}; leave it out and say how many with num_images")
        return list(asked)

    def default(self, count: int) -> list[Any]:
        return [None] * count

    def caption(self, item: Any) -> str:
        return ""

    def build(self, width: int) -> Prompt:
        from ditzoo_conditioning.embedding import NoPrompt

        return NoPrompt(width)


class LabelSpec(PromptSpec):
    """One of `classes` classes. With `dropout` above zero the table has a null row, `num_classes`, for guidance.

    `dropout` is the share of training rows whose label is dropped; `names` are the classes' names in order, a name
    may hold several spellings parted by commas, as ImageNet's do.
    """

    kind: Literal["label"] = "label"
    argument: ClassVar[str | None] = "class_labels"
    classes: Positive
    dropout: float = Field(0.1, ge=0, lt=1)
    names: tuple[str, ...] = ()

    @classmethod
    def examples(cls) -> dict[str, dict[str, Any]]:
        return {"": {"classes": 5}}

    @model_validator(mode="after")
    def _a_name_a_class(self) -> LabelSpec:
        if self.names and len(self.names) != self.classes:
            raise ValueError(f"classes={self.classes} but {len(self.names)} names; give one name a class, or none")
        return self

    @property
    def item_classes(self) -> int:
        return self.classes

    @property
    def provides_now(self) -> frozenset[str]:
        return frozenset({"prompt-vec", "prompt-tokens"} | ({"null"} if self.dropout else set()))

    def parse(self, asked: Sequence[Any]) -> list[int]:
        return [self._class_of(item) for item in asked]

    def _class_of(self, item: Any) -> int:
        if isinstance(item, str) and not item.lstrip("-").isdigit():
            spellings = {word.strip().lower(): index for index, name in enumerate(self.names) for word in (name, *name.split(","))}
            if item.strip().lower() in spellings:
                return spellings[item.strip().lower()]
            known = f"labels: {listed(self.names)}" if self.names else f"this model's labels are numbers, 0 to {self.classes - 1}"
            raise UnknownNameError(f"no label '{item}'{suggest(item, spellings)} ({known})")
        if isinstance(item, bool) or not isinstance(item, int | str):
            raise SamplingError(f"a label is a name or a number, found {item!r}")
        if not 0 <= int(item) < self.classes:
            raise SamplingError(f"label {item} is out of range; this model's labels are 0 to {self.classes - 1}")
        return int(item)

    def default(self, count: int) -> list[int]:
        return [index % self.classes for index in range(count)]

    def caption(self, item: Any) -> str:
        return self.names[item].split(",")[0] if self.names else str(item)

    def build(self, width: int) -> Prompt:
        from ditzoo_conditioning.embedding import LabelPrompt

        return LabelPrompt(self, width)
