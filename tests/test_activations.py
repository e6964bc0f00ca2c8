"""GELU in training: values, gradients, and gradients of those are torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ditzoo.activations import _Gated, gelu, gelu_


def test_values_and_gradients_are_those_of_torch():
    x = torch.cat([torch.linspace(-12, 12, 4001), torch.tensor([0.0, -1e4, 1e4])]).requires_grad_()
    weight = torch.randn(len(x), generator=torch.Generator().manual_seed(0))
    made, expected = gelu(x), F.gelu(x.double(), approximate="tanh")
    torch.testing.assert_close(made.double(), expected, rtol=1e-5, atol=1e-6)
    found, wanted = torch.autograd.grad(made, x, weight)[0], torch.autograd.grad(expected, x, weight.double())[0]
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=3e-6)


def test_the_slope_is_exact_and_can_be_differentiated_again():
    x = torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(_Gated.apply, x)
    assert torch.autograd.gradgradcheck(_Gated.apply, x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_and_runs_without_gradients_are_torchs_own(dtype):
    x = torch.linspace(-4, 4, 1001, dtype=dtype)
    assert torch.equal(gelu(x.clone().requires_grad_()), F.gelu(x, approximate="tanh"))
    assert torch.equal(gelu(x.float()), F.gelu(x.float(), approximate="tanh"))


def test_half_precision_rounds_once_in_place():
    x = torch.linspace(-4, 4, 1001)
    assert torch.equal(gelu_(x.bfloat16()), F.gelu(x.bfloat16(), approximate="tanh"))
    torch.testing.assert_close(gelu_(x.clone()), F.gelu(x, approximate="tanh"), rtol=1e-5, atol=1e-6)
