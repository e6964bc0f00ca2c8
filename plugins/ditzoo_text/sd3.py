"""The working prompt of `sd3-text`: projections of what two CLIPs and T5 say, which are trained with the model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditzoo.errors import CheckpointError
from ditzoo.interfaces import Cond, Prompt
from ditzoo_text.encoders import Encoders, States, stacked
from ditzoo_text.projections import Pooled
from ditzoo_text.sd3_text import Asked, asked_of

if TYPE_CHECKING:
    from ditzoo_text.sd3_text import SD3TextSpec

CLIPS = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))
T5 = ("tokenizer_3", "text_encoder_3")


class SD3Encoders(Encoders):
    """Two CLIPs and T5 under one source."""

    spec: SD3TextSpec

    def made(self, asked: Asked, device: torch.device) -> States:
        spec, pooled, tokens = self.spec, list[Tensor](), list[Tensor]()
        for text, (tokenizer, encoder) in zip(asked[:2], CLIPS, strict=True):
            told = self.part(encoder, device)(self.ids(tokenizer, text, spec.clip_length)[0].to(device), output_hidden_states=True)
            pooled.append(told[0][0])
            tokens.append(told.hidden_states[-2][0])
        both = torch.cat(tokens, dim=-1)  # (77, 768 + 1280)
        if both.shape[1] > spec.states or torch.cat(pooled).shape[0] != spec.pooled:
            raise CheckpointError(
                f"the CLIPs of '{spec.source}' say {both.shape[1]} numbers a token and {torch.cat(pooled).shape[0]} pooled; "
                f"prompt.states={spec.states} and prompt.pooled={spec.pooled} do not fit them"
            )
        padded = F.pad(both, (0, spec.states - both.shape[1]))
        length = asked.length or spec.t5_length
        if spec.t5:
            late = self.part(T5[1], device)(self.ids(T5[0], asked.t5, length)[0].to(device))[0][0]
        else:
            late = padded.new_zeros(length, spec.states)
        if late.shape[1] != spec.states:
            raise CheckpointError(
                f"T5 of '{spec.source}' says {late.shape[1]} numbers a token; prompt.states={spec.states} does not fit it"
            )
        return States(torch.cat(pooled).cpu(), torch.cat([padded, late]).cpu())

    def opened(self, role: str, options: dict[str, Any]) -> Any:
        from transformers import AutoTokenizer, CLIPTextModelWithProjection, T5EncoderModel

        if role.startswith("tokenizer"):
            return AutoTokenizer.from_pretrained(self.spec.source, **options)
        loader = T5EncoderModel if role in T5 else CLIPTextModelWithProjection
        return loader.from_pretrained(self.spec.source, **options)

    def without(self, role: str) -> str:
        return "; set prompt.t5=false to go on without it, at the cost of long prompts and written words" if role in T5 else ""


class SD3Text(Prompt):
    """`vec` is a projection of the pooled vectors, `tokens` one of the encoders' tokens. The null is the empty text."""

    def __init__(self, spec: SD3TextSpec, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.pooled, self.context = Pooled(spec.pooled, width), nn.Linear(spec.states, width)

    @cached_property
    def encoders(self) -> SD3Encoders:
        """The frozen encoders; none is loaded before it is asked. They are no part of this module's weights."""
        return SD3Encoders(self.spec)

    def encode(self, items: Sequence[Any]) -> Cond:
        """Encode prompts, as the spec parses them or as `States` that were made before."""
        like = self.context.weight
        if like.is_meta:
            return self._shapes(len(items))
        said = stacked([item if isinstance(item, States) else self.encoders.states(asked_of(item), like.device) for item in items], like)
        return Cond(self.pooled(said.vec), self.context(said.tokens), said.mask)

    def _shapes(self, batch: int) -> Cond:
        """Return what is encoded on meta: shapes alone, without an encoder."""
        spec, like = self.spec, self.context.weight
        tokens = like.new_empty(batch, spec.clip_length + spec.t5_length, spec.states)
        return Cond(self.pooled(like.new_empty(batch, spec.pooled)), self.context(tokens))

    def null(self, batch: int) -> Cond:
        return self.encode([asked_of("")] * batch)

    def drop(self, items: Any, uniform: Tensor) -> list[Any]:
        return [asked_of("") if dropped else item for item, dropped in zip(items, (uniform < self.spec.dropout).tolist(), strict=True)]
