"""The text encoders and tokenizers of a diffusers pipeline as the source of a prompt with frozen encoders, and back."""

from __future__ import annotations

import shutil
from pathlib import Path

from ditzoo.layouts import Component, Data
from ditzoo.model_spec import ModelSpec
from ditzoo_text.frozen import FrozenTextSpec


class TextEncoders(Component):
    """Only told where they are; nothing is opened before a prompt is encoded. Which prompt it is the network's layout says."""

    classes = frozenset({"CLIPTextModelWithProjection", "T5EncoderModel"})
    folder = "text_encoder"
    config = "config.json"
    library = "transformers"

    def writes(self, member: str) -> bool:
        return member.removesuffix("_2").removesuffix("_3") == self.folder

    def class_of(self, config: Data) -> str:
        return str(config["architectures"][0])

    def read(self, name: str, config: Data, source: Data) -> dict[str, Data | str]:
        return {"prompt": {field: value for field, value in source.items() if field != "subfolder"}}

    def write(self, spec: ModelSpec, folder: Path | None) -> str | None:
        prompt = spec.prompt
        if not isinstance(prompt, FrozenTextSpec):
            return f"this pipeline reads text with encoders of transformers, and the prompt is '{prompt.kind}'"
        if prompt.local is None:
            return f"the encoders of '{prompt.source}' are not in a folder of this machine; fetch them and set prompt.source to the folder"
        if folder is not None:
            shutil.copytree(prompt.local / folder.name, folder, dirs_exist_ok=True)
        return None


class Tokenizers(TextEncoders):
    """The same of tokenizers."""

    classes = frozenset({"CLIPTokenizer", "CLIPTokenizerFast", "T5Tokenizer", "T5TokenizerFast"})
    folder = "tokenizer"
    config = "tokenizer_config.json"

    def class_of(self, config: Data) -> str:
        return str(config["tokenizer_class"])
