"""The tokens of each row shared out among processes: sequence parallelism (Jacobs et al. 2023, "DeepSpeed Ulysses"), for long clips.

Between attentions a process has a part of every row's tokens, and within them a part of the heads, of all tokens: before an attention each
gives the others their heads of its tokens, and after it what it has found for their tokens. So positions, masks and who looks at whom are
those of whole rows, and weights are whole in every process.

Shapes: B rows, N tokens, n those of this process, D width, H heads, h those of this process, d channels of a head, P processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from einops import rearrange
from torch import Tensor, nn

from ditzoo.errors import SamplingError, listed
from ditzoo.interfaces import Backbone, Runtime, Stream
from ditzoo.layers import Attention, Mlp
from ditzoo.processes import processes
from ditzoo.views import before, hooked, view


@dataclass(frozen=True)
class ByTokens(Runtime):
    """What another runtime prepares, its rows' tokens shared out among the processes that a launcher started; with one it is as it was."""

    inner: Runtime

    def prepare(self, backbone: Backbone) -> Backbone:
        seen, state = self.inner.prepare(backbone), processes()
        return seen if state.num_processes == 1 else shared(seen, state.num_processes)

    @property
    def told(self) -> str:
        return f"{self.inner.told}, by tokens"


def shared(backbone: Backbone, count: int) -> Backbone:
    """Return a view of a backbone whose blocks share tokens out among `count` processes.

    Raises `SamplingError` where none of its blocks can, or heads do not come out even.
    """
    blocks = [block for block in backbone.blocks if shareable(block)]
    if not blocks:
        kinds = listed(sorted({type(block).__name__ for block in backbone.blocks}))
        raise SamplingError(
            f"runtime 'by-tokens' shares out tokens of blocks that say `tokens_apart` and are not compiled, and "
            f"{type(backbone).__name__} has none ({kinds}); take another runtime"
        )
    found = {id(one): one for block in blocks for one in block.modules() if isinstance(one, Attention)}
    heads = math.gcd(*(one.heads for one in found.values()))
    if heads % count:
        fit = listed(str(number) for number in range(1, heads + 1) if heads % number == 0)
        raise SamplingError(f"{heads} heads of attention cannot be shared out evenly among {count} processes; start {fit} of them")
    first = {id(block): _Block for block in blocks} | dict.fromkeys(found, _Exchanging)
    return view(backbone, lambda one: before(first[id(one)], type(one)) if id(one) in first else None)  # type: ignore[arg-type]


def shareable(block: nn.Module) -> bool:
    """Say whether the tokens of a block meet in layers that are known here, and nowhere else."""
    known = getattr(block, "tokens_apart", False) and isinstance(block.attention, Attention) and isinstance(block.mlp, Mlp)
    attentions = (one for one in block.modules() if isinstance(one, Attention))
    return known and "forward" not in vars(block) and all(type(one).forward is Attention.forward for one in attentions)


class _Block(nn.Module):
    """Comes before a class of blocks: each process computes its own tokens, and all have all of them afterwards."""

    def forward(self, stream: Stream) -> Stream:
        if stream.packing is not None or torch.is_grad_enabled() or hooked(self):
            return super().forward(stream)
        shares = shares_of(stream.tokens.shape[1], dist.get_world_size())
        mine = stream.tokens.split(shares, dim=1)[dist.get_rank()]
        made = super().forward(replace(stream, tokens=mine, shares=shares))
        return replace(made, tokens=gathered(made.tokens, shares), shares=None)


class _Exchanging(Attention):
    """Comes before a class of attentions whose tokens may be a part of their rows'."""

    def forward(self, x: Tensor, stream: Stream | None = None, *, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        if stream is None or stream.shares is None or context is not None:  # what looks at a prompt looks at all of it
            return super().forward(x, stream, context=context, mask=mask)
        q, k, v = to_heads(torch.stack(self.qkv(x)), stream.shares).unbind(0)
        found = to_tokens(self.look(q, k, v, stream, mask), stream.shares)
        return self.out(rearrange(found, "b h n d -> b n (h d)"))


def shares_of(tokens: int, count: int) -> tuple[int, ...]:
    """Return how many of a row's tokens each process has, as even as may be."""
    return tuple(tokens * (index + 1) // count - tokens * index // count for index in range(count))


def to_heads(x: Tensor, shares: Sequence[int]) -> Tensor:
    """Exchange all heads of own tokens, x (..., H, n, d), for own heads of all tokens, (..., h, N, d)."""
    parts = x.chunk(len(shares), dim=-3)
    return torch.cat(exchanged(parts, [(*parts[0].shape[:-2], share, x.shape[-1]) for share in shares]), dim=-2)


def to_tokens(x: Tensor, shares: Sequence[int]) -> Tensor:
    """Exchange own heads of all tokens, x (..., h, N, d), for all heads of own tokens, (..., H, n, d)."""
    parts = x.split(list(shares), dim=-2)
    return torch.cat(exchanged(parts, [parts[dist.get_rank()].shape] * len(shares)), dim=-3)


def gathered(mine: Tensor, shares: Sequence[int]) -> Tensor:
    """Return the tokens of all processes (B, N, D) out of one's own (B, n, D)."""
    rows, _, width = mine.shape
    return torch.cat(exchanged([mine] * len(shares), [(rows, share, width) for share in shares]), dim=1)


def exchanged(parts: Sequence[Tensor], shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Give part i to process i; return what the processes gave, which is of these shapes. As bytes: not every backend knows every dtype."""
    given = torch.cat([part.contiguous().flatten().view(torch.uint8) for part in parts])
    counts = [math.prod(shape) * parts[0].element_size() for shape in shapes]
    got = given.new_empty(sum(counts))
    dist.all_to_all_single(got, given, counts, [part.nbytes for part in parts])
    return [piece.view(parts[0].dtype).view(*shape) for piece, shape in zip(got.split(counts), shapes, strict=True)]
