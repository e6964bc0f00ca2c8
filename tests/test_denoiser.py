"""Guidance as branches, branches at their own depth, and a ledger that counts what hooks count."""

from __future__ import annotations

import pytest
import torch
from conftest import assert_near, tiny, wake

from ditzoo.assemble import build
from ditzoo.denoiser import Branch, Denoiser, Ledger, guided
from ditzoo.model_spec import Guidance


@pytest.fixture(scope="module")
def model(zoo):
    data = tiny(backbone={"depth": 6, "learn_sigma": True, "in_channels": 4}, codec={"channels": 4})
    return wake(build(zoo.model(data))).requires_grad_(False)


@pytest.fixture(scope="module")
def parts(model):
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return x, torch.tensor(0.5, dtype=torch.float64), model.prompt.encode([1, 2]), model.prompt.null(2)


def alone(model, x, t, cond, depth=None):
    schedule = model.spec.schedule.build()
    return model.backbone(x, schedule.model_time(t).expand(len(x)), cond, depth)


def predict(model, x, t, branches, ledger=None):
    schedule = model.spec.schedule.build()
    return Denoiser(model.backbone, schedule, lambda t: branches, ledger=ledger or Ledger())(x, t)


@pytest.mark.parametrize("channels", ["all", 3])
def test_guidance_is_the_formula_on_the_channels_it_guides(model, parts, channels):
    x, t, cond, null = parts
    ours = predict(model, x, t, guided(cond, null, Guidance(scale=3.0, channels=channels))(0.5))
    with_prompt, without = alone(model, x, t, cond), alone(model, x, t, null)
    n = 4 if channels == "all" else 3
    expected = with_prompt.clone()
    expected[:, :n] = without[:, :n] + 3.0 * (with_prompt[:, :n] - without[:, :n])
    reference = model.spec.schedule.build().split(expected, x, t)
    assert_near(ours.eps, reference.eps)
    assert_near(ours.variance, reference.variance)  # never guided


def test_guidance_acts_within_its_interval_alone(model, parts):
    _, _, cond, null = parts
    branches = guided(cond, null, Guidance(scale=2.0, interval=(0.2, 0.6)))
    assert [len(branches(t)) for t in (0.1, 0.2, 0.4, 0.6, 0.7)] == [1, 2, 2, 2, 1]
    assert len(guided(cond, null, Guidance(scale=1.0))(0.4)) == 1


@pytest.mark.parametrize("depths", [(None, 2), (2, None), (4, 2), (3, 3), (1, 6)])
def test_branches_leave_at_their_own_depth(model, parts, depths):
    x, t, cond, null = parts
    ledger = Ledger()
    branches = [Branch(cond, 2.0, depths[0]), Branch(null, -1.0, depths[1])]
    ours = predict(model, x, t, branches, ledger)
    out = [alone(model, x, t, branch.cond, branch.depth) for branch in branches]
    expected = torch.cat([2 * out[0][:, :4] - out[1][:, :4], out[0][:, 4:]], 1)
    assert_near(ours.eps, model.spec.schedule.build().split(expected, x, t).eps)
    assert ledger.block_evals == 2 * sum(depth or 6 for depth in depths)


def test_one_branch_at_full_depth_is_the_plain_model_bit_for_bit(model, parts):
    x, t, cond, _ = parts
    ours = predict(model, x, t, [Branch(cond)])
    assert torch.equal(ours.eps, model.spec.schedule.build().split(alone(model, x, t, cond), x, t).eps)


def test_ledger_equals_hooked_counts_and_macs_of_the_figures(model):
    from ditzoo.figures import figures

    counted = [0]
    hooks = [
        block.register_forward_hook(lambda m, i, o: counted.__setitem__(0, counted[0] + len(i[0].tokens)))
        for block in model.backbone.blocks
    ]
    drawn = model.sample(class_labels=[0, 1, 2], num_inference_steps=3, guidance_scale=2.0, count_macs=True, output_type="latent")
    for hook in hooks:
        hook.remove()
    assert drawn.ledger.block_evals == counted[0] == 3 * 2 * 3 * 6
    assert drawn.ledger.macs == figures(model.spec).macs * 3 * 2 * 3
    assert drawn.ledger.calls == 3
    assert drawn.ledger.seconds > 0
