"""Every conditioning on every size class at its true size: each named model of patch 8 is built, run and differentiated."""

from __future__ import annotations

import gc
import itertools

import pytest
import torch
from conftest import assert_near

from ditzoo.assemble import build_meta
from ditzoo.checkpoints import Checkpoint
from ditzoo.weights import fill

NAMES = [f"dit-{size}-8{tag}" for size, tag in itertools.product(("s", "b", "l", "xl"), ("", ".in-context", ".cross-attention", ".adaln"))]


def values(number: int, shape: torch.Size) -> torch.Tensor:
    """Return small values of both signs by a cheap formula: drawing 675 million normals takes longer than the test."""
    count, scale = shape.numel(), 0.7 * shape[-1] ** -0.5 if len(shape) > 1 else 0.05
    base = torch.randn(8191 + number, generator=torch.Generator().manual_seed(number)) * scale
    return base.repeat(-(-count // base.numel()))[:count].view(shape)


@pytest.mark.parametrize("name", NAMES)
def test_depends_on_time_and_own_prompt_alone_and_teaches_every_parameter(zoo, name):
    gc.collect()
    spec = zoo.spec(name)
    model = build_meta(spec)
    tensors = {key: values(number, p.shape) for number, (key, p) in enumerate(model.state_dict().items())}
    fill(model, Checkpoint(tensors, "formula", mapped=False), spec, zoo.layout("ditzoo"))
    model.requires_grad_(True)
    x = torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([100.0, 700.0])
    out = model(x, t, [1, 2])
    with torch.no_grad():
        other = model(x, t, [1, 3])
        later = model(x, t + 100, [1, 2])
    scale = out.detach().abs().max()
    assert_near(other[0], out[0].detach(), 1e-5)  # a neighbour's prompt changes nothing
    assert (other[1] - out[1]).abs().max() > 1e-4 * scale
    assert (later - out).abs().amax((1, 2, 3)).min() > 1e-3 * scale
    out.square().mean().backward()
    silent = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert [key for key in silent if not key.endswith(".k.bias")] == []  # softmax does not see a shift of all scores alike
