"""The working prompt of `transformers-text`: projections of what one frozen encoder says, which are trained with the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ditzoo.errors import CheckpointError
from ditzoo.interfaces import Cond, Prompt
from ditzoo_text.encoders import Encoders, States, stacked
from ditzoo_text.projections import PROJECTIONS, Pooled

if TYPE_CHECKING:
    from ditzoo_text.transformers_text import AskedText, TransformersTextSpec

# how a vector (S,) is had of states (L, S), the places of the text's tokens (T,) and which of these are ends of text (T,)
POOLINGS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "none": lambda states, places, ends: states.new_zeros(0),
    "mean": lambda states, places, ends: states[places].mean(0),
    "last": lambda states, places, ends: states[places[-1]],
    "cls": lambda states, places, ends: states[places[0]],
    "eos": lambda states, places, ends: states[places[int(ends.int().argmax())] if bool(ends.any()) else places[-1]],
}


ENCODER, TOKENIZER = "text_encoder", "tokenizer"


class OneEncoder(Encoders):
    """An encoder, or the encoder of an encoder and decoder, with its tokenizer."""

    spec: TransformersTextSpec

    def folder_of(self, role: str) -> str:
        return {ENCODER: self.spec.encoder, TOKENIZER: self.spec.tokenizer}[role]

    def made(self, asked: AskedText, device: torch.device) -> States:
        spec = self.spec
        ids, mask = (one.to(device) for one in self.ids(TOKENIZER, asked.text, asked.length or spec.length))
        told = self.part(ENCODER, device)(
            input_ids=ids, output_hidden_states=spec.layer != -1, **({"attention_mask": mask.long()} if spec.masked else {})
        )
        states = (told.hidden_states[spec.layer] if spec.layer != -1 else told.last_hidden_state)[0]  # (L, S)
        if states.shape[1] != spec.states:
            raise CheckpointError(
                f"the encoder of '{spec.source}' says {states.shape[1]} numbers a token; set prompt.states={states.shape[1]}"
            )
        pooled = self._pooled(told, states, ids[0], mask[0])
        return States(pooled.clone().cpu(), states.cpu(), mask[0].cpu() if spec.masked else None)

    def _pooled(self, told: Any, states: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        if self.spec.pooling in POOLINGS:
            places = mask.nonzero()[:, 0]
            end = getattr(self.part(TOKENIZER, states.device), "eos_token_id", None)
            return POOLINGS[self.spec.pooling](states, places, ids[places] == (-1 if end is None else end))
        pooled: Tensor | None = getattr(told, "pooler_output", None)
        if pooled is None:
            raise CheckpointError(f"the encoder of '{self.spec.source}' has no pooler; set prompt.pooling to one of {', '.join(POOLINGS)}")
        return pooled[0]

    def opened(self, role: str, options: dict[str, Any]) -> Any:
        from transformers import MODEL_FOR_TEXT_ENCODING_MAPPING, AutoConfig, AutoModel, AutoModelForTextEncoding, AutoTokenizer

        source = self.spec.source
        if role == TOKENIZER:
            tokenizer = AutoTokenizer.from_pretrained(source, **options)
            if tokenizer.pad_token is None:  # as decoders have it; what is masked may be any token
                tokenizer.pad_token = tokenizer.eos_token
            return tokenizer
        config = AutoConfig.from_pretrained(source, **options)
        known = type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING
        model = (AutoModelForTextEncoding if known else AutoModel).from_pretrained(source, **options)
        return model.get_encoder() if config.is_encoder_decoder and not known else model


class TransformersText(Prompt):
    """`tokens` are a projection of the encoder's states, `vec` one of the pooled vector, or zeros. The null is the empty text."""

    def __init__(self, spec: TransformersTextSpec, width: int) -> None:
        super().__init__()
        self.spec, self.width = spec, width
        self.context = PROJECTIONS[spec.projection](spec.states, width)
        self.pooled = Pooled(spec.states, width) if spec.pooling != "none" else None

    @cached_property
    def encoders(self) -> OneEncoder:
        """The frozen encoder, loaded when it is asked; it is no part of this module's weights."""
        return OneEncoder(self.spec)

    def encode(self, items: Sequence[Any]) -> Cond:
        """Encode prompts, as the spec parses them or as `States` that were made before."""
        like = next(self.context.parameters())
        if like.is_meta:
            tokens = like.new_empty(len(items), self.spec.length, self.spec.states)
            return self._projected(Cond(like.new_empty(len(items), self.spec.states), tokens))
        states = [item if isinstance(item, States) else self.encoders.states(self.spec.asked(item), like.device) for item in items]
        return self._projected(stacked(states, like))

    def _projected(self, said: Cond) -> Cond:
        vec = said.tokens.new_zeros(len(said.tokens), self.width) if self.pooled is None else self.pooled(said.vec)
        return Cond(vec, self.context(said.tokens), said.mask)

    def null(self, batch: int) -> Cond:
        return self.encode([""] * batch)

    def drop(self, items: Any, uniform: Tensor) -> list[Any]:
        return ["" if dropped else item for item, dropped in zip(items, (uniform < self.spec.dropout).tolist(), strict=True)]
