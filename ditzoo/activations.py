"""The tanh-approximated GELU (Hendrycks and Gimpel 2016) without its tanh.

As tanh(u) = 2 sigmoid(2u) - 1, it is x sigmoid(SLOPE (x + CUBIC x^3)), which takes an exponential alone.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SLOPE = 2 * math.sqrt(2 / math.pi)
CUBIC = 0.044715


def gelu(x: Tensor) -> Tensor:
    """Return the tanh-approximated GELU of x, of any shape, on any device.

    Where a gradient follows on a CPU in full precision, the gate is kept for it: torch computes tanh anew in its backward pass, and both
    passes take nearly twice as long. That is one more tensor as large as x, held until the backward pass.
    """
    followed = x.requires_grad and torch.is_grad_enabled()
    if followed and x.device.type == "cpu" and x.dtype == torch.float32 and not torch.compiler.is_compiling():
        return _Gated.apply(x)
    return F.gelu(x, approximate="tanh")


def gelu_(x: Tensor) -> Tensor:
    """Do the tanh-approximated GELU in place; x has no gradient."""
    if x.dtype in (torch.bfloat16, torch.float16):  # each step would round
        return torch.ops.aten.gelu_(x, approximate="tanh")
    return x.mul_(_gate(x))


def _gate(x: Tensor) -> Tensor:
    return torch.addcmul(x.new_tensor(SLOPE), x, x, value=SLOPE * CUBIC).mul_(x).sigmoid_()


class _Gated(torch.autograd.Function):
    """x s with s = sigmoid(z), z = SLOPE (x + CUBIC x^3); its slope is s + x s (1 - s) dz/dx."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        gate = _gate(x)
        ctx.save_for_backward(x, gate)
        return x * gate

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        x, gate = ctx.saved_tensors
        (grad,) = grads
        if torch.is_grad_enabled():  # a gradient of the gradient is asked for: torch knows its own
            return torch.ops.aten.gelu_backward(grad, x, approximate="tanh")
        steep = torch.addcmul(x.new_tensor(SLOPE), x, x, value=3 * SLOPE * CUBIC).mul_(x)
        return steep.mul_(torch.addcmul(gate, gate, gate, value=-1)).add_(gate).mul_(grad)
