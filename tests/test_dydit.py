"""DyDiT: it begins as the network that it is made of, what is sliced is what was masked, and what was not chosen is not computed."""

from __future__ import annotations

import csv

import pytest
import torch
from conftest import assert_near, tiny, wake
from ditzoo_dynamic.flops import share

from ditzoo.assemble import build, load
from ditzoo.errors import SpecError
from ditzoo.passes import Ledger, Passes
from ditzoo.sampling import sample
from ditzoo.training.loop import train
from ditzoo.training.recipe import read_recipe

ROUTERS = ["backbone.blocks.*.head_router.*", "backbone.blocks.*.channel_router.*", "backbone.blocks.*.token_router.*"]


def made(zoo, inner="adaln-zero", **changes):
    return build(zoo.model(tiny(conditioning={"kind": "dydit", "inner": inner, "groups": 4}, **changes)))


def choosy(model, seed=0):
    """Wake a model and let its routers choose about half."""
    wake(model)
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "router" in name:
                p.copy_(torch.randn(p.shape, generator=draws) * (0.5 if name.endswith("weight") else 0.3))
    return model


@pytest.fixture(scope="module")
def model(zoo):
    return choosy(made(zoo))


def inputs(model, rows=3):
    x = torch.randn(rows, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return x, model.prompt.encode(list(range(rows)))


@pytest.mark.parametrize("inner", ["adaln-zero", "adaln", "cross-attention", "in-context"])
def test_it_begins_as_the_network_that_it_is_made_of(zoo, inner):
    plain = wake(build(zoo.model(tiny(conditioning={"kind": inner}))))
    dynamic = made(zoo, inner)
    missing, unexpected = dynamic.load_state_dict(plain.state_dict(), strict=False)
    assert all("router" in name for name in missing)
    assert unexpected == []  # names are those of the plain network, so its weights can be begun with
    x, t = inputs(plain)[0], torch.tensor([30.0, 500.0, 900.0])
    assert_near(dynamic(x, t, [0, 1, 2]), plain(x, t, [0, 1, 2]))
    with torch.no_grad():
        assert_near(dynamic(x, t[:1].expand(3), [0, 1, 2]), plain(x, t[:1].expand(3), [0, 1, 2]))


@pytest.mark.parametrize("inner", ["adaln-zero", "in-context"])
def test_what_is_sliced_and_gathered_is_what_was_masked(zoo, inner):
    model = choosy(made(zoo, inner))
    x, cond = inputs(model)
    t = torch.full((3,), 400.0)
    masked = model.backbone(x, t, cond)  # with gradients
    with torch.no_grad():
        assert_near(model.backbone(x, t, cond), masked)
        alone = [model.backbone(x[i : i + 1], t[:1], cond.rows(slice(i, i + 1))) for i in range(3)]
        assert_near(torch.cat(alone), masked)
        mixed = torch.tensor([30.0, 400.0, 900.0])  # rows of other times choose other heads
        apart = [model.backbone(x[i : i + 1], mixed[i : i + 1], cond.rows(slice(i, i + 1))) for i in range(3)]
        assert_near(model.backbone(x, mixed, cond), torch.cat(apart))


def test_what_was_not_chosen_is_not_computed(zoo, model):
    x, cond = inputs(model)
    plain = build(zoo.model(tiny()))
    spent, chosen = [], []
    for one in (plain, model):
        passes = Passes(one.backbone, one.spec.schedule.build(), Ledger(count_macs=True))
        with torch.no_grad():
            stream = passes.begin(x, torch.tensor(0.4), [cond])
            before = passes.ledger.macs
            passes.run(stream, 0, 1)
            spent.append(passes.ledger.macs - before)
            if one is model:
                chosen.append(float(share(model.backbone, 0, stream).mean()))
    modulation = 3 * 32 * 6 * 32
    routers = 3 * (32 * 2 + 32 * 4 + 16 * 32)
    assert 0.1 < chosen[0] < 0.9
    assert spent[1] - modulation - routers == pytest.approx(chosen[0] * (spent[0] - modulation), rel=1e-6)


def test_no_token_and_one_head_at_least(zoo):
    model = made(zoo)
    wake(model)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("router.bias"):
                p.fill_(-9)
    x, cond = inputs(model)
    stream = model.backbone.begin(x, torch.full((3,), 400.0), cond)
    block = model.backbone.blocks[0]
    channels, tokens = block.mlp.choose(stream)
    assert (float(channels.hard.sum(-1).min()), float(tokens.hard.sum())) == (1, 0)
    assert float(block.attention.choose(stream).hard.sum(-1).min()) == 1
    with torch.no_grad():
        assert torch.isfinite(model.backbone(x, torch.full((3,), 400.0), cond)).all()


def test_a_run_learns_to_spend_its_target(recipe, zoo, tmp_path):
    settings = [
        "model.conditioning={kind='dydit', inner='adaln-zero'}",
        "losses=[{kind='flops', target=0.5, weight=4}]",
        "length.steps=120",
    ]
    train(read_recipe(str(recipe), zoo, settings), tmp_path, quiet=True)
    with (tmp_path / "log.csv").open() as file:
        log = list(csv.DictReader(file))
    assert float(log[0]["loss_flops"]) > 0.15  # all is spent at first: a quarter
    assert float(log[-1]["loss_flops"]) < 0.01


def test_it_begins_with_a_plain_models_weights_and_trains_its_routers(recipe, zoo, tmp_path):
    train(read_recipe(str(recipe), zoo, ["length.steps=6"]), tmp_path / "plain", quiet=True)
    start = f"start={{model='local-dir:{tmp_path / 'plain' / 'model'}', fresh={ROUTERS}, train={ROUTERS}}}"
    settings = [start, "model.conditioning={kind='dydit', inner='adaln-zero'}", "losses=[{kind='flops', target=0.5}]", "length.steps=6"]
    train(read_recipe(str(recipe), zoo, settings), tmp_path / "routed", quiet=True)
    assert (tmp_path / "routed" / "model" / "model.safetensors").is_file()


def test_it_leaves_early_too(zoo):
    model = choosy(made(zoo, exits={"kind": "offset", "at": [1, 2]}, guidance={"scale": 2.0}))
    model.spec = zoo.model(model.spec.model_dump() | {"sampler": {"kind": "early-exit", "inner": "ddim", "null_exit": 1}})
    drawn = model.sample(class_labels=[0, 1], output_type="latent", count_macs=True)
    assert torch.isfinite(drawn.images).all()
    assert drawn.ledger.block_evals == 4 * 2 * (3 + 1)


def test_the_shipped_one_spends_about_half_and_draws_what_it_is_asked_for(zoo):
    spent = {}
    for name in ("fashion-dit", "fashion-dydit"):
        drawn = sample(load(name, zoo=zoo), num_images=10, num_inference_steps=5, seed=3, output_type="latent", count_macs=True)
        spent[name] = drawn.ledger.macs
    assert 0.4 < spent["fashion-dydit"] / spent["fashion-dit"] < 0.6
    logits = zoo.part("features", "fashion-cnn").build().see(drawn.images).logits
    assert int((logits.argmax(1) == torch.arange(10)).sum()) >= 8


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"groups": 7}, "conditioning.groups=7 does not divide the MLP's 128 channels"),
        ({"inner": "joint"}, "no installed plugin offers conditioning kind 'joint'"),
    ],
)
def test_what_cannot_be_sliced_is_told(zoo, changes, told):
    with pytest.raises(SpecError) as refusal:
        build(zoo.model(tiny(conditioning={"kind": "dydit", "inner": "adaln-zero"} | changes)))
    assert told in str(refusal.value)


def test_the_loss_is_refused_where_nothing_is_chosen(recipe, zoo):
    with pytest.raises(SpecError, match=r"loss 'flops': conditioning 'adaln-zero' chooses nothing to spend; set model.conditioning="):
        read_recipe(str(recipe), zoo, ["losses=[{kind='flops', target=0.5}]"])
