"""The spec of `words-apart`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from ditzoo.specs import LossSpec
from ditzoo_text.words import TextTokensSpec

if TYPE_CHECKING:
    from ditzoo.interfaces import Loss
    from ditzoo.model_spec import ModelSpec


class WordsApartSpec(LossSpec):
    """No two words of the vocabulary of `text-tokens` come nearer to each other than a share of what words are apart on average.

    Words that say almost the same of almost all data, as two alike articles, or two directions before anything tells them apart, are
    drawn together by a denoising loss, and once they are one nothing parts them. The distance is that of the pooled vectors.
    """

    kind: Literal["words-apart"] = "words-apart"
    provides: ClassVar[frozenset[str]] = frozenset({"packs"})

    weight: float = Field(0.02, gt=0)
    margin: float = Field(0.7, gt=0, lt=1, description="share of the mean distance under which two words are drawn apart")

    def check(self, model: ModelSpec) -> str | None:
        if not isinstance(model.prompt, TextTokensSpec):
            return f"it parts the words of a vocabulary, and prompt '{model.prompt.kind}' has none; choose model.prompt.kind='text-tokens'"
        if len(model.prompt.vocabulary) < 2:
            return "it parts words, and model.prompt.vocabulary has one"
        return None

    def build(self, model: ModelSpec) -> Loss:
        from ditzoo_text.apart import WordsApart

        assert isinstance(model.prompt, TextTokensSpec)
        return WordsApart(self.margin, len(model.prompt.vocabulary))
