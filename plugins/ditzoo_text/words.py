"""The spec of `text-tokens`: a prompt of words out of a vocabulary that the model was trained with."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from ditzoo.errors import SamplingError, UnknownNameError, listed, suggest
from ditzoo.specs import Positive, PromptSpec

if TYPE_CHECKING:
    from ditzoo.interfaces import Prompt

WORD = re.compile(r"[a-z0-9]+(?:[-'][a-z0-9]+)*")


class TextTokensSpec(PromptSpec):
    """Text as the words of a small vocabulary, read by a table and a few layers of attention that are trained with the model.

    Case and punctuation say nothing. At most `length` words are read. `dropout` is the share of training rows whose text is dropped;
    `shown` are prompts to draw where none is asked for.
    """

    kind: Literal["text-tokens"] = "text-tokens"
    argument: ClassVar[str | None] = "prompt"

    vocabulary: tuple[str, ...] = Field(min_length=1)
    length: Positive = 16
    layers: int = Field(1, ge=0)
    heads: Positive = 4
    dropout: float = Field(0.1, ge=0, lt=1)
    shown: tuple[str, ...] = ()

    @classmethod
    def examples(cls) -> dict[str, dict[str, Any]]:
        return {"": {"vocabulary": ["red", "green", "round", "square"], "shown": ["red round", "green"], "length": 4, "heads": 2}}

    @field_validator("vocabulary")
    @classmethod
    def _words(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        for word in words:
            if not WORD.fullmatch(word):
                raise ValueError(f"'{word}' is no word: lower-case letters and digits, joined by - or '")
        if len(set(words)) < len(words):
            raise ValueError(f"words appear twice: {listed(sorted({word for word in words if words.count(word) > 1}))}")
        return words

    @property
    def provides_now(self) -> frozenset[str]:
        return frozenset({"prompt-vec", "prompt-tokens"} | ({"null"} if self.dropout else set()))

    def parse(self, asked: Sequence[Any]) -> list[tuple[int, ...]]:
        return [self.words_of(text) for text in asked]

    def words_of(self, text: Any) -> tuple[int, ...]:
        """Return a text's words by number; raise `UnknownNameError` naming those that are not in the vocabulary."""
        if not isinstance(text, str):
            raise SamplingError(f"a prompt is text, found {text!r}")
        places = {word: index for index, word in enumerate(self.vocabulary)}
        words = WORD.findall(text.lower())
        if unknown := [word for word in dict.fromkeys(words) if word not in places]:
            near = suggest(unknown[0], places)
            raise UnknownNameError(f"prompt '{text}' has words that this model was not trained with: {listed(unknown)}{near}")
        if len(words) > self.length:
            cut = " ".join(words[self.length :])
            warnings.warn(f"prompt '{text}' is longer than the {self.length} words that are read; left out: '{cut}'", stacklevel=2)
        return tuple(places[word] for word in words[: self.length])

    def default(self, count: int) -> list[tuple[int, ...]]:
        return self.parse([self.shown[index % len(self.shown)] if self.shown else "" for index in range(count)])

    def caption(self, item: Any) -> str:
        return " ".join(self.vocabulary[index] for index in item)

    def build(self, width: int) -> Prompt:
        from ditzoo_text.text import TextTokens

        return TextTokens(self, width)
