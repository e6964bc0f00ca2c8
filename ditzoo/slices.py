"""Layers made of some channels of others, and what layers have in common that choose channels as they run.

Shapes: B rows, K choices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from ditzoo.layers import Attention, Mlp
from ditzoo.views import hooked

Made = TypeVar("Made", bound=nn.Module)


KEPT = 2**23  # bytes of the smaller layers that a view of one keeps; of large layers the last one alone


class Slicing(nn.Module):
    """A layer that, without gradients, runs as a smaller one made of the channels that it chooses.

    A runtime sets `prepare` on its view of such a layer: what it does to layers that stand in the tree, for those that are made on the
    way. The view then keeps some, for looks that choose alike. The layer itself keeps nothing, for its weights may be written to.
    """

    prepare: Callable[[nn.Module], nn.Module] | None = None

    def smaller(self, chosen: Tensor, make: Callable[[Tensor], Made]) -> Made:
        """Return the layer that `make` makes of the chosen indices, prepared as this one is."""
        if self.prepare is None:
            return make(chosen)
        kept: dict[tuple[int, ...], nn.Module] = self.__dict__.setdefault("_kept", {})
        key = tuple(chosen.tolist())
        found = kept.pop(key, None)
        if found is None:
            found = self.prepare(make(chosen))
            bytes_each = max(1, sum(p.nbytes for p in found.parameters()))
            while len(kept) >= max(1, KEPT // bytes_each):
                kept.pop(next(iter(kept)), None)
        kept[key] = found  # as the last one that was used
        return found  # type: ignore[return-value]


def alike(hard: Tensor, *layers: nn.Module) -> Tensor | None:
    """Return the indices that all rows (B, K) of 0 and 1 chose, if a smaller layer of `layers` can stand for all of them.

    It cannot where rows differ, a gradient is asked for, nothing is known (on meta), or a layer is more than its weights: an adapter's,
    or one with a hook.
    """
    if torch.is_grad_enabled() or hard.is_meta or any(not isinstance(layer, nn.Linear) or hooked(layer) for layer in layers):
        return None
    return hard[0].nonzero()[:, 0] if bool((hard == hard[:1]).all()) else None


def some_heads(attention: Attention, heads: Tensor) -> Attention:
    """Return attention of some heads, by index, their weights copied."""
    channels = members(heads, attention.heads, attention.q.out_features)
    made = _bare(Attention)
    made.heads, made.norm_q, made.norm_k = len(heads), attention.norm_q, attention.norm_k
    made.q, made.k, made.v = (_rows(layer, channels) for layer in (attention.q, attention.k, attention.v))
    made.out = _columns(attention.out, channels)
    return made


def some_channels(mlp: Mlp, groups: Tensor, count: int) -> Mlp:
    """Return an MLP of some of the `count` groups of an MLP's hidden channels, by index, their weights copied."""
    channels = members(groups, count, mlp.fc1.out_features)
    made = _bare(Mlp)
    made.fc1, made.fc2 = _rows(mlp.fc1, channels), _columns(mlp.fc2, channels)
    return made


def members(used: Tensor, groups: int, channels: int) -> Tensor:
    """Return the channels of the used groups, of so many channels in so many groups."""
    each = channels // groups
    return (used[:, None] * each + torch.arange(each, device=used.device)).flatten()


def _rows(layer: nn.Linear, channels: Tensor) -> nn.Linear:
    return _linear(layer.weight.index_select(0, channels), None if layer.bias is None else layer.bias.index_select(0, channels))


def _columns(layer: nn.Linear, channels: Tensor) -> nn.Linear:
    return _linear(layer.weight.index_select(1, channels), layer.bias)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    made = _bare(nn.Linear)
    made.out_features, made.in_features = weight.shape
    made.weight = nn.Parameter(weight, requires_grad=False)
    made.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach(), requires_grad=False))
    return made


def _bare(cls: type[Made]) -> Made:
    """Return a module without parameters: making those that are replaced at once takes longer than small products."""
    made = cls.__new__(cls)
    nn.Module.__init__(made)
    return made
