"""Prompts of text, as a plugin of ditzoo: a vocabulary of a model's own, and frozen encoders of transformers, alone or as SD3 has them."""

from __future__ import annotations

from ditzoo.hookspecs import hookimpl
from ditzoo.layouts import Component
from ditzoo.specs import Part


@hookimpl
def ditzoo_parts() -> list[type[Part]]:
    from ditzoo_text.apart_spec import WordsApartSpec
    from ditzoo_text.sd3_text import SD3TextSpec
    from ditzoo_text.transformers_text import TransformersTextSpec
    from ditzoo_text.words import TextTokensSpec

    return [TextTokensSpec, TransformersTextSpec, SD3TextSpec, WordsApartSpec]


@hookimpl
def ditzoo_components() -> list[Component]:
    from ditzoo_text.components import TextEncoders, Tokenizers

    return [TextEncoders(), Tokenizers()]
