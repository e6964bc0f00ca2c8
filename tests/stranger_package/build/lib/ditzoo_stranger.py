"""A stranger's plugin: Euler's method, and a backbone whose tokens are single pixels."""

from typing import Literal

from ditzoo.hookspecs import hookimpl
from ditzoo.specs import BackboneSpec, SamplerSpec


class EulerSpec(SamplerSpec):
    kind: Literal["stranger-euler"] = "stranger-euler"

    def build(self):
        from ditzoo.interfaces import Sampler

        class Euler(Sampler):
            def trajectory(self, denoise, x, schedule, steps, noise):
                times = schedule.times(steps)
                alphas, sigmas = schedule.alpha_sigma(times)
                for i in range(steps):
                    seen = denoise(x, times[i])
                    x = alphas[i + 1].to(x) * seen.x0 + sigmas[i + 1].to(x) * seen.eps
                    yield x

        return Euler()


class PixelTokensSpec(BackboneSpec):
    kind: Literal["stranger-pixels"] = "stranger-pixels"
    provides = frozenset({"single-stream"})

    def build(self, conditioning):
        from torch import nn

        from ditzoo.interfaces import Backbone, BlockParts, Stream
        from ditzoo.layers import Attention, Mlp, TimeEmbedding, patchify, unpatchify

        class PixelTokens(Backbone):
            def __init__(self, spec):
                super().__init__()
                self.embed, self.time = nn.Linear(spec.in_channels, spec.width), TimeEmbedding(spec.width)
                parts = BlockParts(spec.width, 1, lambda: Attention(spec.width, 1), lambda: Mlp(spec.width, spec.width))
                self.conditioning = conditioning
                self.blocks = nn.ModuleList(conditioning.block(parts) for _ in range(spec.depth))
                self.norm, self.out = conditioning.head_norm(spec.width), nn.Linear(spec.width, spec.in_channels)

            def begin(self, x, t, cond):
                return self.conditioning.enter(Stream(self.embed(patchify(x, (1, 1))), self.time(t), cond, tuple(x.shape[2:])))

            def head(self, stream, exit=None):
                stream = self.conditioning.leave(stream)
                return unpatchify(self.out(self.norm(stream.tokens, stream)), stream.grid, (1, 1))

        return PixelTokens(self)


@hookimpl
def ditzoo_parts():
    return [EulerSpec, PixelTokensSpec]
