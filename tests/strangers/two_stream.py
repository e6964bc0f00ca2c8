"""A throw-away plugin as a stranger would write it: text and image tokens in two streams with one joint attention."""

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from ditzoo.hookspecs import hookimpl
from ditzoo.interfaces import Backbone, BlockParts, Cond, Conditioning, Prompt, Stream
from ditzoo.layers import Attention, Mlp, TimeEmbedding, modulate, patchify, unpatchify
from ditzoo.specs import BackboneSpec, ConditioningSpec, PromptSpec

WORDS = ("red", "green", "blue", "round", "square")


class WordsSpec(PromptSpec):
    kind: Literal["toy-words"] = "toy-words"
    argument = "prompt"
    provides = frozenset({"prompt-vec", "prompt-tokens", "null"})

    def parse(self, asked):
        return [tuple(WORDS.index(word) for word in text.split()) for text in asked]

    def default(self, count):
        return self.parse(["red round"] * count)

    def build(self, width):
        return Words(width)


class Words(Prompt):
    def __init__(self, width):
        super().__init__()
        self.table = nn.Embedding(len(WORDS) + 1, width)

    def encode(self, items):
        conds = [Cond(rows.mean(1), rows) for rows in (self.table(torch.tensor([item or (len(WORDS),)])) for item in items)]
        return Cond.cat(conds)

    def null(self, batch):
        return self.encode([()] * batch)


class JointSpec(ConditioningSpec):
    kind: Literal["toy-joint"] = "toy-joint"
    requires = frozenset({"two-streams", "prompt-tokens"})

    def build(self, width):
        return Joint()


class Joint(Conditioning):
    def block(self, parts: BlockParts):
        return JointBlock(parts)

    def head_norm(self, width, eps=1e-6):
        return HeadNorm(width)

    def enter(self, stream):
        return replace(stream, vec=F.silu(stream.time + stream.cond.vec), context=stream.cond.tokens)


class HeadNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.modulation = nn.LayerNorm(width, elementwise_affine=False), nn.Linear(width, 2 * width)

    def forward(self, tokens, stream):
        return modulate(self.norm(tokens), *self.modulation(stream.vec).chunk(2, -1))


class JointBlock(nn.Module):
    def __init__(self, parts):
        super().__init__()
        self.heads = parts.heads
        self.image, self.text = HeadNorm(parts.width), HeadNorm(parts.width)
        self.image_attention, self.text_attention = parts.attention(), parts.attention()
        self.image_mlp, self.text_mlp = parts.mlp(), parts.mlp()

    def forward(self, stream: Stream) -> Stream:
        image, text = self.image(stream.tokens, stream), self.text(stream.context, stream)
        q, k, v = (
            torch.cat([getattr(self.image_attention, n)(image), getattr(self.text_attention, n)(text)], 1)
            .unflatten(-1, (self.heads, -1))
            .transpose(1, 2)
            for n in "qkv"
        )
        keep = None
        if stream.cond.mask is not None:
            keep = torch.cat([stream.cond.mask.new_ones(len(text), image.shape[1]), stream.cond.mask], 1)[:, None, None]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=keep).transpose(1, 2).flatten(2)
        x = stream.tokens + self.image_attention.out(out[:, : image.shape[1]])
        c = stream.context + self.text_attention.out(out[:, image.shape[1] :])
        return replace(stream, tokens=x + self.image_mlp(x), context=c + self.text_mlp(c))


class TwoStreamSpec(BackboneSpec):
    kind: Literal["toy-two-stream"] = "toy-two-stream"
    provides = frozenset({"two-streams"})

    @classmethod
    def examples(cls):
        return {"": {"width": 32, "depth": 2, "in_channels": 3, "input_size": (8, 8)}}

    def build(self, conditioning):
        return TwoStream(self, conditioning)


class TwoStream(Backbone):
    def __init__(self, spec, conditioning):
        super().__init__()
        width = spec.width
        self.embed, self.time, self.conditioning = nn.Linear(spec.in_channels * 4, width), TimeEmbedding(width), conditioning
        parts = BlockParts(width, 2, lambda: Attention(width, 2), lambda: Mlp(width, 2 * width))
        self.blocks = nn.ModuleList(conditioning.block(parts) for _ in range(spec.depth))
        self.norm, self.out = conditioning.head_norm(width), nn.Linear(width, spec.in_channels * 4)

    def begin(self, x, t, cond):
        tokens = self.embed(patchify(x, (2, 2)))
        return self.conditioning.enter(Stream(tokens, self.time(t), cond, tuple(n // 2 for n in x.shape[2:])))

    def head(self, stream, exit=None):
        return unpatchify(self.out(self.norm(stream.tokens, stream)), stream.grid, (2, 2))


@hookimpl
def ditzoo_parts():
    return [WordsSpec, JointSpec, TwoStreamSpec]
