"""What specs of prompts with frozen encoders share: where the encoders are, and that they are no part of the model's weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field

from ditzoo.errors import SamplingError
from ditzoo.specs import PromptSpec

CONFIG = "config.json"


class FrozenTextSpec(PromptSpec):
    """`source` is a folder or hub repository in transformers' or diffusers' layout, opened when a prompt is encoded and not before.

    What encoders said is kept on disk.
    """

    argument: ClassVar[str | None] = "prompt"

    source: str | None = None
    revision: str | None = None
    dropout: float = Field(0.1, ge=0, lt=1, description="share of training rows whose text is dropped")
    shown: tuple[str, ...] = ("a photo of a cat",)

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders of the source that are used."""
        raise NotImplementedError(f"{type(self).__name__} does not say its folders")

    def default(self, count: int) -> list[Any]:
        return self.parse([self.shown[index % len(self.shown)] for index in range(count)])

    def caption(self, item: Any) -> str:
        return str(item[0])

    def files_used(self) -> list[tuple[str, str | None, list[str]]]:
        if self.source is None:
            return []
        return [(self.source, self.revision, [f"{folder}/*" if folder else "*.*" for folder in self.folders])]

    @property
    def local(self) -> Path | None:
        """The source, if it is a folder of this machine."""
        folder = None if self.source is None else Path(self.source).expanduser()
        return folder if folder is not None and folder.is_dir() else None

    def packed(self, folder: Path) -> Self:
        if self.local is None:
            return self
        for name in self.folders:
            if (self.local / name).is_dir():
                shutil.copytree(self.local / name, folder / name, dirs_exist_ok=True)
        return self.model_copy(update={"source": ".", "revision": None})

    def told(self, folder: str, *names: str) -> int | None:
        """Return the first number by these names in the config of a folder of the source; None if it is not on this machine."""
        if self.local is None or not (self.local / folder / CONFIG).is_file():
            return None
        config = json.loads((self.local / folder / CONFIG).read_text(encoding="utf-8"))
        return next((int(config[name]) for name in names if isinstance(config.get(name), int)), None)


def differing(pairs: Sequence[tuple[str, int, int | None]], source: str | None) -> str | None:
    """Say which field is not what the encoders' configs tell, given (field, value, told); None if all agree or nothing is told."""
    wrong = [f"prompt.{field}={told} (found {value})" for field, value, told in pairs if told is not None and told != value]
    return f"the encoders of '{source}' say vectors of another width: set {' and '.join(wrong)}" if wrong else None


def length_of(item: Mapping[str, Any]) -> int | None:
    """Return the number of tokens that an item is read to, if it says."""
    length = item.get("max_sequence_length")
    if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 1):
        raise SamplingError(f"max_sequence_length is {length!r}; a whole number of tokens from 1 is needed")
    return length
