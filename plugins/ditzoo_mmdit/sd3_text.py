"""The spec of `sd3-text`: two CLIPs and T5, as Stable Diffusion 3 is asked."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from ditzoo.errors import SamplingError, listed
from ditzoo.specs import Positive, PromptSpec

if TYPE_CHECKING:
    from ditzoo.interfaces import Prompt

FIELDS = ("prompt", "prompt_2", "prompt_3")
FOLDERS = ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")


class Asked(NamedTuple):
    """What each encoder is given: both CLIPs, and T5."""

    clip: str
    clip_2: str
    t5: str


class SD3TextSpec(PromptSpec):
    """Text as Stable Diffusion 3 reads it: the tokens of two CLIPs side by side, those of T5 after them, both CLIPs' pooled vectors.

    The encoders are frozen and no part of the model's weights; `source` is a folder or hub repository in diffusers' layout, opened when a
    prompt is encoded and not before. What they said is kept on disk. Without T5 (`t5 = false`) its tokens are zeros: less memory by far,
    at the cost of long prompts and of written words. An item is a text, or `{prompt, prompt_2, prompt_3}` with one for each encoder.
    """

    kind: Literal["sd3-text"] = "sd3-text"
    argument: ClassVar[str | None] = "prompt"
    expected_failures: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("a row an item", "rows are apart", "its null is another prompt"), "its encoders are files of their own, and an example has none"
    )

    pooled: Positive = Field(2048, description="width of both pooled vectors together")
    states: Positive = Field(4096, description="width of T5's tokens, to which those of the CLIPs are padded")
    clip_length: Positive = 77
    t5_length: Positive = 256
    t5: bool = True
    source: str | None = None
    revision: str | None = None
    dropout: float = Field(0.1, ge=0, lt=1, description="share of training rows whose text is dropped")
    shown: tuple[str, ...] = ("a photo of a cat",)

    @property
    def provides_now(self) -> frozenset[str]:
        return frozenset({"prompt-vec", "prompt-tokens", "null"})

    def parse(self, asked: Sequence[Any]) -> list[Asked]:
        return [asked_of(item) for item in asked]

    def default(self, count: int) -> list[Asked]:
        return self.parse([self.shown[index % len(self.shown)] for index in range(count)])

    def caption(self, item: Any) -> str:
        return str(item[0])

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders of the source that are used: T5's are not, where it is left out."""
        return tuple(folder for folder in FOLDERS if self.t5 or not folder.endswith("_3"))

    def files_used(self) -> list[tuple[str, str | None, list[str]]]:
        if self.source is None:
            return []
        return [(self.source, self.revision, [f"{folder}/*" for folder in self.folders])]

    def packed(self, folder: Path) -> SD3TextSpec:
        if self.source is None or not Path(self.source).expanduser().is_dir():
            return self
        for name in self.folders:
            if (Path(self.source).expanduser() / name).is_dir():
                shutil.copytree(Path(self.source).expanduser() / name, folder / name, dirs_exist_ok=True)
        return self.model_copy(update={"source": ".", "revision": None})

    def build(self, width: int) -> Prompt:
        from ditzoo_mmdit.projected import SD3Text

        return SD3Text(self, width)


def asked_of(item: Any) -> Asked:
    """Read an item: a text for all encoders, or one for each, of which those left out are the first."""
    if isinstance(item, str):
        return Asked(item, item, item)
    if isinstance(item, Asked):
        return item
    if not isinstance(item, Mapping) or not item.keys() <= set(FIELDS) or "prompt" not in item:
        raise SamplingError(f"a prompt is a text, or a table of {listed(FIELDS)} with the first at least, found {item!r}")
    texts = [item.get(name) or item["prompt"] for name in FIELDS]
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise SamplingError(f"a prompt is text, found {wrong[0]!r}")
    return Asked(*texts)
