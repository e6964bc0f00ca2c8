"""The spec of `transformers-text`: one frozen text encoder of transformers, of any kind."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field

from ditzoo.errors import SamplingError
from ditzoo.specs import Positive
from ditzoo_text.frozen import FrozenTextSpec, differing, length_of

if TYPE_CHECKING:
    from ditzoo.interfaces import Prompt
    from ditzoo.model_spec import ModelSpec

WIDTHS = ("d_model", "hidden_size", "dim")  # how configs of transformers call the width of token states
PACKED = "text_encoder"


class AskedText(NamedTuple):
    """A text, and how many tokens of it are read, if not as the spec says."""

    text: str
    length: int | None = None


class TransformersTextSpec(FrozenTextSpec):
    """Text as one encoder of transformers reads it: the states of its tokens, and a pooled vector.

    `encoder` and `tokenizer` are folders of the source, empty for the source itself. `pooling` is what the vector is made of: `none`, the
    `mean` of the text's tokens, the `last` or the first (`cls`) of them, the first end of text (`eos`), or the encoder's own `pooler`.
    `layer` is the hidden layer that says the states, -1 the last. With `masked` padding is looked at by nobody; else it counts as text.
    `projection` is what brings the states to the model's width. With `lower` the text is stripped and its case says nothing.
    """

    kind: Literal["transformers-text"] = "transformers-text"
    beside: ClassVar[tuple[str, ...]] = ("max_sequence_length",)
    expected_failures: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("a row an item", "rows are apart", "its null is another prompt"), "its encoder is files of its own, and an example has none"
    )

    states: Positive = Field(4096, description="width of the encoder's token states")
    length: Positive = Field(120, description="tokens that are read")
    pooling: Literal["none", "mean", "last", "cls", "eos", "pooler"] = "none"
    projection: Literal["linear", "mlp"] = "linear"
    layer: int = Field(-1, le=-1)
    masked: bool = True
    lower: bool = False
    encoder: str = ""
    tokenizer: str = ""

    @property
    def provides_now(self) -> frozenset[str]:
        return frozenset({"prompt-tokens", "null"} | ({"prompt-vec"} if self.pooling != "none" else set()))

    def parse(self, asked: Sequence[Any]) -> list[AskedText]:
        return [self.asked(item) for item in asked]

    def asked(self, item: Any) -> AskedText:
        """Read an item: a text, or `{prompt, max_sequence_length}`."""
        if isinstance(item, AskedText):
            return item
        text, length = item, None
        if isinstance(item, Mapping) and "prompt" in item and item.keys() <= {"prompt", *self.beside}:
            text, length = item["prompt"], length_of(item)
        if not isinstance(text, str):
            raise SamplingError(f"a prompt is text, found {text!r}")
        return AskedText(text.lower().strip() if self.lower else text, length)

    @property
    def folders(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.encoder, self.tokenizer)))

    def packed(self, folder: Path) -> Self:
        if self.local is None or all(self.folders):
            return super().packed(folder)
        for name in self.folders:  # a source that is no folder of folders becomes one
            shutil.copytree(self.local / name, folder / (name or PACKED), dirs_exist_ok=True)
        named = {"encoder": self.encoder or PACKED, "tokenizer": self.tokenizer or PACKED}
        return self.model_copy(update={"source": ".", "revision": None} | named)

    def check(self, model: ModelSpec) -> str | None:
        return differing([("states", self.states, self.told(self.encoder, *WIDTHS))], self.source)

    def build(self, width: int) -> Prompt:
        from ditzoo_text.one_encoder import TransformersText

        return TransformersText(self, width)
