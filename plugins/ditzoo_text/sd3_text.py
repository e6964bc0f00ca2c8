"""The spec of `sd3-text`: two CLIPs and T5, as Stable Diffusion 3 is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from ditzoo.errors import SamplingError, listed
from ditzoo.specs import Positive
from ditzoo_text.frozen import FrozenTextSpec, differing, length_of

if TYPE_CHECKING:
    from ditzoo.interfaces import Prompt
    from ditzoo.model_spec import ModelSpec

FIELDS = ("prompt", "prompt_2", "prompt_3")
FOLDERS = ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")


class Asked(NamedTuple):
    """What each encoder is given: both CLIPs, and T5; and how many tokens T5 reads, if not as the spec says."""

    clip: str
    clip_2: str
    t5: str
    length: int | None = None


class SD3TextSpec(FrozenTextSpec):
    """Text as Stable Diffusion 3 reads it: the tokens of two CLIPs side by side, those of T5 after them, both CLIPs' pooled vectors.

    The encoders are frozen and no part of the model's weights; `source` is a folder or hub repository in diffusers' layout, opened when a
    prompt is encoded and not before. What they said is kept on disk. Without T5 (`t5 = false`) its tokens are zeros: less memory by far,
    at the cost of long prompts and of written words. An item is a text, or `{prompt, prompt_2, prompt_3}` with one for each encoder;
    with `max_sequence_length` T5 reads so many tokens.
    """

    kind: Literal["sd3-text"] = "sd3-text"
    beside: ClassVar[tuple[str, ...]] = ("prompt_2", "prompt_3", "max_sequence_length")
    expected_failures: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("a row an item", "rows are apart", "its null is another prompt"), "its encoders are files of their own, and an example has none"
    )

    pooled: Positive = Field(2048, description="width of both pooled vectors together")
    states: Positive = Field(4096, description="width of T5's tokens, to which those of the CLIPs are padded")
    clip_length: Positive = 77
    t5_length: Positive = 256
    t5: bool = True

    @property
    def provides_now(self) -> frozenset[str]:
        return frozenset({"prompt-vec", "prompt-tokens", "null"})

    def parse(self, asked: Sequence[Any]) -> list[Asked]:
        return [asked_of(item) for item in asked]

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders of the source that are used: T5's are not, where it is left out."""
        return tuple(folder for folder in FOLDERS if self.t5 or not folder.endswith("_3"))

    def check(self, model: ModelSpec) -> str | None:
        clips = [self.told(folder, "projection_dim") for folder in ("text_encoder", "text_encoder_2")]
        pooled = None if None in clips else sum(width or 0 for width in clips)
        t5 = self.told("text_encoder_3", "d_model") if self.t5 else None
        return differing([("pooled", self.pooled, pooled), ("states", self.states, t5)], self.source)

    def build(self, width: int) -> Prompt:
        from ditzoo_text.sd3 import SD3Text

        return SD3Text(self, width)


def asked_of(item: Any) -> Asked:
    """Read an item: a text for all encoders, or one for each, of which those left out are the first."""
    if isinstance(item, str):
        return Asked(item, item, item)
    if isinstance(item, Asked):
        return item
    if not isinstance(item, Mapping) or not item.keys() <= {*FIELDS, "max_sequence_length"} or "prompt" not in item:
        raise SamplingError(f"a prompt is a text, or a table of {listed(FIELDS)} with the first at least, found {item!r}")
    texts = [item.get(name) or item["prompt"] for name in FIELDS]
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise SamplingError(f"a prompt is text, found {wrong[0]!r}")
    return Asked(*texts)._replace(length=length_of(item))
