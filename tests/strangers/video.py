"""A throw-away plugin as a stranger would write it: a backbone over (B, C, T, H, W), any number of frames, with two exits."""

from typing import Literal

from torch import nn

from ditzoo.hookspecs import hookimpl
from ditzoo.interfaces import Backbone, BlockParts, Stream
from ditzoo.layers import Attention, Mlp, TimeEmbedding, patchify, sincos_table, unpatchify
from ditzoo.specs import BackboneSpec

PATCH = (1, 2, 2)


class ToyVideoSpec(BackboneSpec):
    kind: Literal["toy-video"] = "toy-video"
    provides = frozenset({"single-stream"})

    @property
    def exits(self):
        return (self.depth // 2, self.depth)

    def check_size(self, size):
        _frames, height, width = size
        return None if height % 2 == width % 2 == 0 else f"{height}x{width} is not divisible by the patch 2x2"

    def build(self, conditioning):
        return ToyVideo(self, conditioning)


class ToyVideo(Backbone):
    def __init__(self, spec, conditioning):
        super().__init__()
        self.width, self.exits = spec.width, spec.exits
        self.embed, self.time, self.conditioning = nn.Linear(spec.in_channels * 4, spec.width), TimeEmbedding(spec.width), conditioning
        parts = BlockParts(spec.width, 2, lambda: Attention(spec.width, 2), lambda: Mlp(spec.width, 2 * spec.width))
        self.blocks = nn.ModuleList(conditioning.block(parts) for _ in range(spec.depth))
        self.heads = nn.ModuleDict({str(depth): nn.Linear(spec.width, spec.in_channels * 4) for depth in self.exits})
        self.norm = conditioning.head_norm(spec.width)

    def begin(self, x, t, cond):
        grid = tuple(n // p for n, p in zip(x.shape[2:], PATCH, strict=True))
        tokens = self.embed(patchify(x, PATCH)) + sincos_table(grid, self.width).to(x)
        return self.conditioning.enter(Stream(tokens, self.time(t), cond, grid))

    def head(self, stream, exit=None):
        stream = self.conditioning.leave(stream)
        out = self.heads[str(exit or self.exits[-1])]
        return unpatchify(out(self.norm(stream.tokens, stream)), stream.grid, PATCH)


@hookimpl
def ditzoo_parts():
    return [ToyVideoSpec]
