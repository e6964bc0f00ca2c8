"""DyDiT: it begins as the network that it is made of, what is sliced is what was masked, and what was not chosen is not computed."""

from __future__ import annotations

import csv

import ditzoo_dynamic.dydit
import ditzoo_runtime.choice as choosing
import pytest
import torch
from conftest import assert_near, tiny, wake
from ditzoo_dynamic.dydit import Router, gathered
from ditzoo_dynamic.flops import share
from torch import nn

import ditzoo.slices
from ditzoo.assemble import build, load
from ditzoo.errors import SpecError
from ditzoo.layers import Mlp
from ditzoo.lora import inject, tuned
from ditzoo.passes import Ledger, Passes
from ditzoo.sampling import sample
from ditzoo.slices import Slicing, some_channels
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


@pytest.mark.parametrize("runtime", ["onednn", "fused", {"kind": "onednn", "gelu_within": True}], ids=str)
@torch.no_grad()
def test_smaller_layers_are_prepared_as_others_are_and_not_made_twice(zoo, runtime, monkeypatch):
    model = choosy(made(zoo, guidance={"scale": 2.0})).requires_grad_(False)
    model.runtime = zoo.part("runtime", "eager").build()
    request = {"class_labels": [0, 1, 2], "seed": 3, "output_type": "latent"}
    plain = model.sample(**request).images
    model.runtime = zoo.part("runtime", runtime).build()
    sliced = []
    for name in ("some_heads", "some_channels"):
        own = getattr(ditzoo_dynamic.dydit, name)
        monkeypatch.setattr(
            ditzoo_dynamic.dydit, name, lambda *given, own=own, **named: sliced.append(made := own(*given, **named)) or made
        )
    assert_near(model.sample(**request).images, plain)
    assert sliced
    before = len(sliced)
    assert_near(model.sample(**request).images, plain)
    assert len(sliced) == before  # the views keep them
    for p in model.backbone.blocks.parameters():
        p.data *= 1.1
    assert_near(model.sample(**request).images, model.sample(**request, count_macs=True).images)  # which slices anew


def test_a_view_keeps_as_many_smaller_layers_as_it_has_room_for(monkeypatch):
    monkeypatch.setattr(ditzoo.slices, "KEPT", 3 * 4 * (32 + 1 + 32 + 32))  # three layers of a single channel
    mlp = Mlp(32, 4)
    view = Slicing()
    view.prepare = lambda layer: layer
    made = [view.smaller(torch.tensor([i]), lambda used: some_channels(mlp, used, 4)) for i in (0, 1, 2, 0, 3)]
    assert made[3] is made[0]
    assert list(view._kept) == [(2,), (0,), (3,)]
    assert view.smaller(torch.tensor([3]), lambda used: pytest.fail("made twice")) is made[4]
    assert view.smaller(torch.tensor([0]), lambda used: pytest.fail("made twice")) is made[0]  # used after 1, so kept


def test_tokens_are_gathered_in_few_different_numbers():
    tokens = torch.randn(4096, 8)
    sizes = set()
    for count in range(1, 4097, 7):
        chosen = torch.randperm(4096)[:count]
        found = gathered(tokens, chosen)
        assert torch.equal(found[:count], tokens[chosen])
        sizes.add(len(found))
    assert len(sizes) <= 32


@torch.no_grad()
def test_logits_of_normed_tokens_are_those_of_the_norm(zoo):
    router = Router(32, 3)
    nn.init.normal_(router.weight)
    tokens = torch.randn(2, 16, 32) * 3 + 1.5
    assert_near(router.of_normed(tokens), router(nn.functional.layer_norm(tokens, (32,))))
    assert torch.isfinite(router.of_normed(torch.full((1, 2, 32), 1e4))).all()  # which do not vary


def test_adapters_act_on_sliced_layers_too(zoo):
    model = choosy(made(zoo)).requires_grad_(False)
    names = [name for name, _ in model.named_modules() if name.endswith((".mlp.fc1", ".attention.q"))]
    inject(model, "own", dict.fromkeys(names, 2), dict.fromkeys(names, 2.0), train=False)
    request = {"class_labels": [0, 1], "seed": 3, "output_type": "latent"}
    before = model.sample(**request).images
    for _, layer in tuned(model):
        nn.init.normal_(layer.lora_B["own"].weight)
    apart = model.sample(**request).images
    assert not torch.allclose(apart, before)
    for _, layer in tuned(model):
        layer.merge()
    assert_near(apart, model.sample(**request).images)


@torch.no_grad()
def test_hooks_inside_are_called(zoo):
    model = choosy(made(zoo)).requires_grad_(False)
    request = {"class_labels": [0, 1], "seed": 3, "output_type": "latent"}
    plain, calls = model.sample(**request).images, []
    handle = model.backbone.blocks[0].attention.q.register_forward_hook(lambda *given: calls.append(1))
    assert_near(model.sample(**request).images, plain)
    assert len(calls) == 4  # one a look
    handle.remove()


def test_the_runtime_chooses_for_it_as_for_the_plain_network(zoo, monkeypatch, tmp_path):
    monkeypatch.setenv("DITZOO_CACHE", str(tmp_path))
    monkeypatch.setattr(choosing, "gains", lambda *size: {"fused": 1.5})
    model = made(zoo).requires_grad_(False)
    model.runtime = zoo.part("runtime", "auto").build()
    model.prepare()
    assert model.runtime.told.startswith("auto: fused")


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
