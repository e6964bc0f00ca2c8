"""Layers on weights packed by oneDNN: views of `nn.Linear`, `Mlp` and `Attention` that compute what those do, and fall back to them.

A weight is packed when tokens first come through its layer, so layers that see vectors alone, such as modulations, never are. Where a
gradient is asked for, or a hook or another module sits inside, the plain layer runs.

Shapes: B rows, N tokens, D width, K inputs and M outputs of a layer, H heads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ditzoo.layers import Attention, Mlp
from ditzoo.views import hooked


def available(device: torch.device, dtype: torch.dtype) -> bool:
    """Say whether this build of torch has the packed linear layer for a device and dtype, by calling it."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available() or dtype not in (torch.float32, torch.bfloat16):
        return False
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    try:
        weight = torch.ones(16, 16, dtype=dtype)
        linear(weight[None], pack(weight, 16), None)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return True


def pack(weight: Tensor, rows: int) -> Tensor:
    """Return a weight (M, K) in the order that suits products with about so many rows."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)


def linear(x: Tensor, packed: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
    """Multiply x (B, N, K) with a packed weight (M, K): (B, N, M), through the tanh-approximated GELU where it is asked for."""
    post: tuple[str, list[Any], str] = ("gelu", [], "tanh") if gelu else ("none", [], "")
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), packed, bias, *post)


def fits(x: Tensor, *layers: nn.Module) -> bool:
    """Say whether tokens may go through packed weights of plain layers: no gradients, no hooks, one dtype."""
    if x.dim() != 3 or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    return all(isinstance(one, nn.Linear) and one.weight.dtype == x.dtype and not hooked(one) for one in layers)


class PackedLinear(nn.Linear):
    """A linear layer with its packed weight beside it."""

    packed: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() != 3 or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or self.weight.dtype != input.dtype:
            return super().forward(input)
        if self.packed is None:
            self.packed = pack(self.weight, input.shape[0] * input.shape[1])
        return linear(input, self.packed, self.bias)


class PackedMlp(Mlp):
    """An MLP whose GELU is done while the first layer's product is in the cache."""

    packed: Tensor | None = None

    def forward(self, x: Tensor, stream: Any = None) -> Tensor:
        if not (fits(x, self.fc1) and type(self.fc1) is PackedLinear):
            return super().forward(x, stream)
        if self.packed is None:
            self.packed = pack(self.fc1.weight, x.shape[0] * x.shape[1])
        return self.fc2(linear(x, self.packed, self.fc1.bias, gelu=True))


class PackedAttention(Attention):
    """Attention whose queries, keys and values of one source are one product."""

    packed: Tensor | None = None
    bias: Tensor | None = None

    def qkv(self, x: Tensor, source: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        layers = (self.q, self.k, self.v)
        if source is not None or not fits(x, *layers) or any(type(layer) is not PackedLinear for layer in layers):
            return super().qkv(x, source)
        if self.packed is None:
            self.packed = pack(torch.cat([layer.weight for layer in layers]), x.shape[0] * x.shape[1])
            self.bias = None if self.q.bias is None else torch.cat([layer.bias for layer in layers])
        parts = linear(x, self.packed, self.bias).unflatten(-1, (3, self.heads, -1))  # (B, N, 3, H, D / H)
        q, k, v = (part.transpose(1, 2) for part in parts.unbind(2))
        return self.norm_q(q), self.norm_k(k), v


PACKED: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: PackedLinear, Mlp: PackedMlp, Attention: PackedAttention}
