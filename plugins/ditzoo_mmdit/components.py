"""The text encoders and tokenizers of a Stable Diffusion 3 pipeline as the source of the prompt `sd3-text`, and back."""

from __future__ import annotations

import shutil
from pathlib import Path

from ditzoo.layouts import Component, Data
from ditzoo.model_spec import ModelSpec
from ditzoo_mmdit.sd3_text import SD3TextSpec


class TextEncoders(Component):
    """Only told where they are; nothing is opened before a prompt is encoded."""

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
        if not isinstance(prompt, SD3TextSpec):
            return f"a StableDiffusion3Pipeline reads text with two CLIPs and T5, and the prompt is '{prompt.kind}'"
        if prompt.source is None or not Path(prompt.source).expanduser().is_dir():
            return f"the encoders of '{prompt.source}' are not in a folder of this machine; fetch them and set prompt.source to the folder"
        if folder is not None:
            shutil.copytree(Path(prompt.source).expanduser() / folder.name, folder, dirs_exist_ok=True)
        return None


class Tokenizers(TextEncoders):
    """The same of tokenizers."""

    classes = frozenset({"CLIPTokenizer", "CLIPTokenizerFast", "T5Tokenizer", "T5TokenizerFast"})
    folder = "tokenizer"
    config = "tokenizer_config.json"

    def class_of(self, config: Data) -> str:
        return str(config["tokenizer_class"])
