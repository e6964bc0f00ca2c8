"""The runtime of 8-bit linear layers: weights by output channel, activations by picture, each scaled to what it holds.

A picture's activations are scaled by its own extremes, so it does not change with its batch.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ditzoo.errors import SamplingError
from ditzoo.interfaces import Backbone, Runtime
from ditzoo.layers import Attention, Mlp
from ditzoo.pages import release
from ditzoo.views import view

LEVELS = 127


class Int8Linear(nn.Linear):
    """A linear layer whose products of tokens (B, N, K) are of 8-bit integers; vectors (B, K) go through the plain one."""

    packed: Any = None

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() != 3 or torch.is_grad_enabled():
            return super().forward(input)
        if self.packed is None:
            self.packed = _packed(self.weight.detach().float(), self.bias)
            release([self.weight])  # a copy was made
        rows = [torch.ops.quantized.linear_dynamic(row, self.packed, reduce_range=True) for row in input.float()]
        return torch.stack(rows).to(input.dtype)


def _packed(weight: Tensor, bias: Tensor | None) -> Any:
    """Quantise a weight (M, K) symmetrically by output channel."""
    scales = (weight.abs().amax(1) / LEVELS).clamp(min=1e-12).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather have another package do this
        codes = torch.quantize_per_channel(weight, scales, torch.zeros(len(scales), dtype=torch.int64), 0, torch.qint8)
    return torch.ops.quantized.linear_prepack(codes, None if bias is None else bias.detach().float())


class Int8Dynamic(Runtime):
    """A view of the backbone whose attentions and MLPs have 8-bit linear layers; what is before and after the blocks is as it was."""

    def prepare(self, backbone: Backbone) -> Backbone:
        device = next(backbone.parameters()).device
        if device.type != "cpu" or not torch.backends.quantized.supported_engines[1:]:
            raise SamplingError(f"runtime 'int8-dynamic' runs on CPUs whose build of torch has 8-bit products, and this is {device}")
        inside = (one for layer in backbone.blocks.modules() if isinstance(layer, Attention | Mlp) for one in layer.modules())
        chosen = {id(one) for one in inside if type(one) is nn.Linear}
        return view(backbone, lambda module: Int8Linear if id(module) in chosen else None)

    @property
    def told(self) -> str:
        return "int8-dynamic"
