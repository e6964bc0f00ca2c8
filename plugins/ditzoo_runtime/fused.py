"""Layers in fewer operations: views of `nn.Linear`, `Mlp` and `Attention` that compute what those do, and fall back to them.

Queries, keys and values of one source are one product, and GELU is done where its input lies. Products are torch's own, or on weights that
oneDNN has packed; a weight is packed when tokens first come through its layer, so layers that see vectors alone, such as modulations, never
are. Where a gradient is asked for, or a hook or another module sits inside, the plain layer runs.

Shapes: B rows, N tokens, D width, K inputs and M outputs of a layer, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditzoo.activations import gelu_
from ditzoo.layers import Attention, Mlp
from ditzoo.pages import release
from ditzoo.slices import Slicing
from ditzoo.views import Module, hooked, view

FEW = 512  # tokens whose scores may be written out: memory and time grow with their square


@dataclass(frozen=True)
class Way:
    """How products are computed: on packed weights or by torch's own linear layer; and whether GELU is done within the packed product.

    With `scores` attention among few tokens is written out: the product of queries and keys, softmax, the product with values. Where
    torch's own attention has no fast products, as in bf16 on AMD processors, that takes half of the time.
    """

    packed: bool = False
    gelu_within: bool = False
    scores: bool = False


def available(device: torch.device, dtype: torch.dtype) -> bool:
    """Say whether this build of torch has products on packed weights for a device and dtype, by making one."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available() or dtype not in (torch.float32, torch.bfloat16):
        return False
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    try:
        _multiply(torch.ones(1, 16, 16, dtype=dtype), pack(torch.ones(16, 16, dtype=dtype), 16), None, gelu=True)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return True


def pack(weight: Tensor, rows: int) -> Tensor:
    """Return a weight (M, K) in the order that suits products with about so many rows."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)


def _multiply(x: Tensor, packed: Tensor, bias: Tensor | None, *, gelu: bool) -> Tensor:
    post: tuple[str, list[Any], str] = ("gelu", [], "tanh") if gelu else ("none", [], "")
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), packed, bias, *post)


def written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax attention (B, H, N, d) of q (B, H, N, d) over k and v (B, H, L, d), with its scores in memory."""
    rows, (count, d) = q.shape[:2], q.shape[2:]
    q, k, v = (z.reshape(-1, *z.shape[2:]) for z in (q, k, v))
    scores = torch.baddbmm(q.new_empty(1, 1, 1).expand(len(q), count, k.shape[1]), q, k.transpose(1, 2), beta=0, alpha=d**-0.5)
    return torch.bmm(torch.softmax(scores, -1, out=scores), v).view(*rows, count, -1)


class Product:
    """Products of tokens with the weights of some layers that see the same tokens, side by side."""

    def __init__(self, way: Way, rows: int, *layers: nn.Linear) -> None:
        weights = [layer.weight.detach() for layer in layers]
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        weight = weights[0] if len(layers) == 1 else torch.cat(weights)
        self.way, self.weight = way, pack(weight, rows) if way.packed else weight
        self.bias = torch.cat(biases) if biases else None
        if way.packed or len(layers) > 1:  # a copy was made
            release(weights)

    def __call__(self, x: Tensor, *, gelu: bool = False) -> Tensor:
        """Tokens x (B, N, K) to (B, N, M), through GELU where it is asked for."""
        if not self.way.packed:
            made = F.linear(x, self.weight, self.bias)
            return gelu_(made) if gelu else made
        made = _multiply(x, self.weight, self.bias, gelu=gelu and self.way.gelu_within)
        return gelu_(made) if gelu and not self.way.gelu_within else made


class Fused:
    """What the views share: the way of their products, and the product that they have made."""

    way: Way = Way()
    product: Product | None = None

    def of(self, x: Tensor, *layers: nn.Module) -> Product | None:
        """Return the product of tokens with layers; None where they have to be called one by one."""
        if x.dim() != 3 or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
            return None
        for layer in layers:
            if type(layer) not in (nn.Linear, FusedLinear) or layer.weight.dtype != x.dtype or hooked(layer):
                return None
        if self.product is None:
            self.product = Product(self.way, x.shape[0] * x.shape[1], *layers)  # type: ignore[arg-type]
        return self.product


class FusedLinear(Fused, nn.Linear):
    """A linear layer on its packed weight."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.way.packed or input.dim() != 3 or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
            return nn.Linear.forward(self, input)
        if self.weight.dtype != input.dtype:
            return nn.Linear.forward(self, input)
        if self.product is None:
            self.product = Product(self.way, input.shape[0] * input.shape[1], self)
        return self.product(input)


class FusedMlp(Fused, Mlp):
    """An MLP whose GELU makes no new tensor of its hidden channels."""

    def forward(self, x: Tensor, stream: Any = None) -> Tensor:
        product = self.of(x, self.fc1)
        return Mlp.forward(self, x, stream) if product is None else self.fc2(product(x, gelu=True))


class FusedAttention(Fused, Attention):
    """Attention whose queries, keys and values of one source are one product."""

    def qkv(self, x: Tensor, source: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        product = self.of(x, self.q, self.k, self.v) if source is None else None
        if product is None:
            return Attention.qkv(self, x, source)
        parts = product(x).unflatten(-1, (3, self.heads, -1))  # (B, N, 3, H, D / H)
        q, k, v = (part.transpose(1, 2) for part in parts.unbind(2))
        return self.norm_q(q), self.norm_k(k), v

    def look(self, q: Tensor, k: Tensor, v: Tensor, stream: Any, mask: Tensor | None) -> Tensor:
        plain = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or not q.dtype == k.dtype == v.dtype
        if plain or not self.way.scores or mask is not None or max(q.shape[2], k.shape[2]) > FEW:
            return Attention.look(self, q, k, v, stream, mask)
        return written_out(q, k, v)


FUSED: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: FusedLinear, Mlp: FusedMlp, Attention: FusedAttention}


def fused(module: Module, way: Way) -> Module:
    """Return a view of a module in which the layers above compute in this way."""
    seen = view(module, lambda module: FUSED.get(type(module)))
    for one in seen.modules():
        if isinstance(one, Fused):
            one.way = way
        elif isinstance(one, Slicing):
            one.prepare = partial(fused, way=way)
    return seen
