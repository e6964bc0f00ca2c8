"""Runtimes change how long a picture takes and not the picture; what a run computes ahead is computed once."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import ditzoo_runtime.choice as choosing
import ditzoo_runtime.fused as fusing
import pytest
import torch
from conftest import assert_near, compositions, tiny, wake
from ditzoo_runtime.fused import FEW, Way, fused, written_out
from torch import nn

import ditzoo.foresight
from ditzoo.assemble import build, load
from ditzoo.errors import SpecError
from ditzoo.figures import figures
from ditzoo.layers import Attention
from ditzoo.locks import spec_sha256
from ditzoo.lora import inject, tuned
from ditzoo.views import view

EXACT = ["fused", "onednn", {"kind": "onednn", "gelu_within": True}, "auto"]
GUIDED = {"guidance": {"scale": 2.0}}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DITZOO_CACHE", str(tmp_path / "cache"))


def made(zoo, runtime="eager", **changes):
    model = wake(build(zoo.model(tiny(**(GUIDED | changes))))).requires_grad_(False)
    model.runtime = zoo.part("runtime", runtime).build()
    return model


def latents(model, labels=(0, 1, 2), **request):
    return model.sample(class_labels=list(labels), output_type="latent", seed=3, **request).images


def under(model, zoo, runtime):
    model.runtime = zoo.part("runtime", runtime).build()
    return model


@torch.no_grad()
def test_every_composition_is_the_plain_one_in_any_exact_runtime(zoo, strangers_zoo):
    seen = set()
    for spec in [*compositions(zoo), *compositions(strangers_zoo)]:
        try:
            model = wake(build(spec)).requires_grad_(False)
        except SpecError:
            continue  # dydit slices the plain attention alone, and says so when it is built
        plain = model.sample(num_images=3, output_type="latent").images
        x = torch.randn(3, spec.backbone.in_channels, *spec.backbone.input_size)
        said = model(x, torch.tensor([30.0, 600.0, 990.0]), spec.prompt.default(3))
        for runtime in EXACT:
            under(model, zoo, runtime)
            assert_near(model.sample(num_images=3, output_type="latent").images, plain)
            assert_near(model(x, torch.tensor([30.0, 600.0, 990.0]), spec.prompt.default(3)), said)
        seen.add((spec.backbone.kind, spec.conditioning.kind))
    assert {("mmdit", "joint-attention"), ("dit", "dydit"), ("toy-two-stream", "toy-joint"), ("toy-video", "in-context")} <= seen


@pytest.mark.parametrize("runtime", [*EXACT, "int8-dynamic"], ids=str)
@torch.no_grad()
def test_rows_are_apart_and_parts_make_the_whole_bit_for_bit(zoo, runtime):
    model = made(zoo, runtime)
    together = latents(model, (0, 1, 2, 0, 1))
    assert_near(latents(model, (2,), first_index=2), together[2:3])
    assert_near(latents(model, (0, 1, 2, 0, 1), batch_size=2), together)
    backbone = model.runner
    assert backbone is not model.backbone or runtime == "auto"
    stream = backbone.begin(torch.randn(2, 3, 8, 8), torch.tensor([10.0, 700.0]), model.prompt.encode([1, 2]))
    whole = backbone.run(stream, 0, 3)
    for middle in range(4):
        assert torch.equal(backbone.run(backbone.run(stream, 0, middle), middle, 3).tokens, whole.tokens)


def test_eight_bits_are_near_and_say_what_they_change(zoo):
    model = made(zoo, backbone={"width": 64})
    plain = latents(model)
    found = latents(under(model, zoo, "int8-dynamic"))
    assert 1e-4 < float((found - plain).abs().max() / plain.abs().max()) < 0.1
    assert "8-bit" in zoo.part("runtime", "int8-dynamic").lossy


@pytest.mark.parametrize("runtime", ["onednn", "fused", "int8-dynamic"])
def test_the_plain_modules_stay_as_they_are(zoo, runtime, tmp_path):
    model = made(zoo)
    before, plain = copy.deepcopy(model.state_dict()), latents(model)
    names = [name for name, _ in model.named_modules()]
    latents(under(model, zoo, runtime))
    assert [name for name, _ in model.named_modules()] == names
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    with torch.no_grad():
        runner = model.runner
    assert {name: p.data_ptr() for name, p in runner.named_parameters()} == {
        name: p.data_ptr() for name, p in model.backbone.named_parameters()
    }
    assert model.runner is model.backbone  # where gradients are asked for
    assert torch.equal(latents(under(model, zoo, "eager")), plain)
    model.save_pretrained(tmp_path / "saved")
    again = load(f"local-dir:{tmp_path / 'saved'}", zoo=zoo, runtime="eager")
    assert torch.equal(latents(again), plain)
    assert json.loads((tmp_path / "saved" / "ditzoo.json").read_text())["runtime"] is None
    assert latents(copy.deepcopy(under(model, zoo, runtime))).shape == plain.shape


@pytest.mark.parametrize("runtime", ["onednn", "fused", "int8-dynamic"])
def test_what_changes_is_prepared_anew(zoo, runtime):
    model = made(zoo, runtime)
    before = latents(model)
    model.requires_grad_(True).train()
    out = model(torch.randn(2, 3, 8, 8), torch.tensor([5.0, 500.0]), [0, 1])
    out.square().mean().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    trained = latents(model.eval().requires_grad_(False))
    tolerance = 0.1 if runtime == "int8-dynamic" else 1e-5
    assert_near(trained, latents(under(model, zoo, "eager")), tolerance)
    assert not torch.allclose(trained, before)
    latents(under(model, zoo, runtime))
    adapted = model.backbone.blocks[0].attention
    adapted.q = Adapted(adapted.q)
    found = latents(model)
    assert_near(found, latents(under(model, zoo, "eager")), tolerance)
    assert not torch.allclose(found, trained)


@torch.no_grad()
def test_the_same_weights_under_another_spec_share_what_is_prepared(zoo):
    model = made(zoo, "onednn")
    other = model.under(zoo.model(model.spec.model_dump() | {"sampler": "heun"}))
    assert other.spec.sampler.kind == "heun" != model.spec.sampler.kind
    prepared = other.runner
    assert model.runner is prepared
    model.backbone.blocks[0].mlp.fc1.weight.mul_(1.1)
    assert other.runner is not prepared
    assert model.runner is other.runner
    assert copy.copy(model).runner is not model.runner


class Adapted(nn.Module):
    """A linear layer with a low-rank one beside it, as an adapter puts it in the place of the plain one."""

    def __init__(self, plain):
        super().__init__()
        self.plain = plain
        self.down, self.up = nn.Linear(plain.in_features, 2, bias=False), nn.Linear(2, plain.out_features, bias=False)

    def forward(self, x):
        return self.plain(x) + self.up(self.down(x))


@pytest.mark.parametrize("runtime", ["eager", "onednn"])
def test_hooks_are_called_and_modulations_are_made_once_a_run(zoo, runtime):
    model = made(zoo, runtime)
    calls = {"block": 0, "modulation": 0, "time": 0, "inner": 0}

    def count(name, rows=False):
        return lambda module, given, out: calls.__setitem__(name, calls[name] + (len(given[0].tokens) if rows else 1))

    latents(model)  # prepared before there are hooks
    backbone = model.backbone
    hooks = [block.register_forward_hook(count("block", rows=True)) for block in backbone.blocks]
    hooks += [block.modulation.register_forward_hook(count("modulation")) for block in backbone.blocks]
    hooks += [
        backbone.time_embed.register_forward_hook(count("time")),
        backbone.blocks[1].attention.k.register_forward_hook(count("inner")),
    ]
    drawn = model.sample(class_labels=[0, 1, 2], output_type="latent", seed=3)
    assert calls == {"block": drawn.ledger.block_evals, "modulation": 3, "time": 1, "inner": 4}
    assert drawn.ledger.block_evals == 4 * 6 * 3
    for hook in hooks:
        hook.remove()
    assert_near(latents(model), drawn.images, 1e-6)


@pytest.mark.parametrize("sampler", ["ddim", "heun", {"kind": "churn"}, "dpm-solver++", "adaptive", "diffusers:DDIMScheduler"], ids=str)
def test_what_is_computed_ahead_is_what_is_computed_step_by_step(zoo, sampler, monkeypatch):
    model = made(zoo, sampler=sampler, schedule={"kind": "edm"} if isinstance(sampler, dict) else {"kind": "linear"})
    ahead = latents(model, (0, 1, 0, 2))
    monkeypatch.setattr(ditzoo.foresight, "MOST_BYTES", 1)  # a window a step
    windows = latents(model, (0, 1, 0, 2))
    monkeypatch.setattr("ditzoo.sampling.torch.is_grad_enabled", lambda: True)  # no foresight at all
    assert_near(ahead, latents(model, (0, 1, 0, 2)), 1e-6)
    assert_near(windows, ahead, 1e-6)


def test_guidance_that_begins_on_the_way_and_other_sizes_are_foreseen(zoo, monkeypatch):
    model = made(zoo, guidance={"scale": 2.0, "interval": [0.2, 0.6]}, backbone={"positions": "extend"})
    tables = []
    table = type(model.backbone).table
    monkeypatch.setattr(type(model.backbone), "table", lambda self, grid: tables.append(grid) or table(self, grid))
    found = latents(model, height=4, width=12, force=True)  # whose memory is not estimated, which would ask for tables too
    assert len(tables) <= 2  # before guidance and since, not one a step
    monkeypatch.setattr("ditzoo.sampling.torch.is_grad_enabled", lambda: True)
    assert_near(found, latents(model, height=4, width=12), 1e-6)


def doubled(stream):
    return replace(stream, vec=2 * stream.vec)


@pytest.mark.parametrize("where", ["begin", "enter", "block"])
def test_a_subclass_that_knows_nothing_of_what_is_computed_ahead_is_right(zoo, where):
    model, plain = made(zoo), made(zoo)
    backbone = model.backbone
    part = {"begin": backbone, "enter": backbone.conditioning, "block": backbone.blocks[0]}[where]
    cls, name = type(part), "forward" if where == "block" else where
    inherited = getattr(cls, name)

    def changed(self, first, *others):
        return inherited(self, doubled(first)) if where == "block" else doubled(inherited(self, first, *others))

    part.__class__ = type("Changed", (cls,), {name: changed})
    found = latents(model)
    assert not torch.allclose(found, latents(plain))
    by_hand = model.sample(class_labels=[0, 1, 2], output_type="latent", seed=3, count_macs=True)  # which computes nothing ahead
    assert_near(found, by_hand.images, 1e-6)


@pytest.mark.parametrize("runtime", ["onednn", "fused", "int8-dynamic"])
def test_weights_that_are_written_past_autograd_are_packed_anew(zoo, runtime):
    model = made(zoo, runtime)
    before = latents(model)
    names = [name for name, layer in model.named_modules() if name.endswith((".mlp.fc1", ".attention.q"))]
    inject(model, "own", dict.fromkeys(names, 2), dict.fromkeys(names, 2.0), train=False)
    for _, layer in tuned(model):
        layer.lora_B["own"].weight.data.normal_()
    tolerance = 0.1 if runtime == "int8-dynamic" else 1e-5
    apart = latents(model)
    for change in ("merge", "unmerge"):  # each `weight.data +=`, which autograd does not count
        for _, layer in tuned(model):
            getattr(layer, change)()
        found = latents(model)
        plain = model.sample(class_labels=[0, 1, 2], output_type="latent", seed=3, count_macs=True).images  # of the plain modules
        assert_near(found, plain, tolerance)
        assert_near(found, apart, tolerance)
    assert not torch.allclose(apart, before)


def test_multiply_adds_are_those_of_the_plain_network(zoo):
    model = made(zoo, "onednn")
    drawn = model.sample(class_labels=[0, 1, 2], output_type="latent", count_macs=True)
    assert drawn.ledger.macs == figures(model.spec).macs * 3 * 2 * 4


@pytest.mark.parametrize("runtime", ["onednn", "fused"])
@pytest.mark.parametrize("policy", [{"kind": "uniform"}, {"kind": "confidence", "threshold": 0.5}, {"kind": "exit-residual", "prefix": 2}])
def test_looks_that_leave_early_do_so_under_any_runtime(zoo, runtime, policy):
    exited = {"backbone": {"depth": 6}, "exits": {"kind": "separate", "at": [2, 4]}, "sampling": {"steps": 6}}
    inner = made(zoo, runtime, **exited)
    early = made(zoo, runtime, **exited, sampler={"kind": "early-exit", "inner": "ddim", "policy": policy})
    if policy == {"kind": "uniform"}:
        assert torch.equal(latents(early), latents(inner))
    assert_near(latents(early), latents(under(early, zoo, "eager")), 1e-5)


# The choice


def test_it_falls_back_where_packed_products_are_absent(zoo, monkeypatch):
    def absent(*given):
        raise AttributeError("no such operation")

    model = made(zoo)
    plain = latents(model)
    monkeypatch.setattr(fusing, "pack", absent)
    assert not fusing.available(torch.device("cpu"), torch.float32)
    found = under(model, zoo, "onednn")
    assert torch.equal(latents(found), plain)
    with torch.no_grad():
        assert found.runner is found.backbone
    latents(under(model, zoo, "auto"))
    assert set(next(iter(choosing.remembered().values()))) == {"fused"}


@pytest.mark.parametrize(
    ("measured", "told"),
    [
        ({"fused": 0.8, "onednn": 0.7}, "auto: eager"),
        ({"fused": 1.01, "onednn": 1.02}, "auto: eager"),
        ({"fused": 1.2, "onednn": 0.9}, "auto: fused"),
        ({"fused": 1.2, "onednn": 1.4, "onednn, gelu within": 1.3}, "auto: onednn"),
        ({"fused": 1.2, "onednn, gelu within": 1.3}, "auto: onednn, gelu within"),
        ({}, "auto: eager"),
    ],
)
def test_the_choice_is_what_was_measured_and_is_measured_once(zoo, monkeypatch, measured, told):
    asked = []
    monkeypatch.setattr(choosing, "gains", lambda *given: asked.append(given) or measured)
    monkeypatch.setattr(choosing, "scores_gain", lambda *given: {"scores": 0.9})
    for _ in range(2):
        model = made(zoo, "auto")
        latents(model)
        assert model.runtime.told == told
    assert asked == [(32, 128, torch.float32)]
    choosing.memory().write_text("damaged")
    latents(made(zoo, "auto"))
    assert len(asked) == 2


def test_attention_is_written_out_where_that_is_measured_to_be_faster(zoo, monkeypatch):
    asked = []
    monkeypatch.setattr(choosing, "gains", lambda *given: {})
    monkeypatch.setattr(choosing, "scores_gain", lambda *given: asked.append(given) or {"scores": 1.8})
    model = made(zoo, "auto")
    plain = latents(made(zoo))
    assert_near(latents(model), plain)
    assert model.runtime.told == "auto: fused, scores"
    assert asked == [(model.spec.backbone.heads, model.spec.backbone.width // model.spec.backbone.heads, torch.float32)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_attention_written_out_is_attention_and_only_among_few_tokens(dtype, monkeypatch):
    plain = Attention(32, 2, qk_norm="rms").to(dtype)
    written = fused(plain, Way(scores=True))
    calls = []
    monkeypatch.setattr(fusing, "written_out", lambda *given: calls.append(1) or written_out(*given))
    x, keep = torch.randn(3, 17, 32).to(dtype), torch.rand(3, 17) > 0.3
    near = {"rtol": 0.02, "atol": 0.02} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(written(x), plain(x), **near)
    torch.testing.assert_close(written(x, context=x[:, :5]), plain(x, context=x[:, :5]), **near)
    assert len(calls) == 2
    torch.testing.assert_close(written(x, mask=keep), plain(x, mask=keep), **near)
    long = torch.randn(1, FEW + 1, 32).to(dtype)
    torch.testing.assert_close(written(long), plain(long), **near)
    assert len(calls) == 2


def test_gains_are_measured_quickly():
    import time

    begun = time.perf_counter()
    found = choosing.gains(384, 1536, torch.float32)
    found_too = choosing.scores_gain(6, 64, torch.float32)
    assert time.perf_counter() - begun < 5  # on a machine that does other things too
    assert set(found) <= set(choosing.WAYS)
    assert set(found_too) == {"scores"}
    assert all(gain > 0 for gain in [*found.values(), *found_too.values()])


def test_loaded_models_have_the_default_and_others_are_named(zoo):
    assert type(load("fashion-dit", zoo=zoo).runtime) is choosing.Auto
    assert load("fashion-dit", zoo=zoo, runtime={"kind": "onednn", "gelu_within": True}).runtime.told == "onednn, gelu within"
    assert load("fashion-dit", zoo=zoo, settings=["runtime=fused"]).runtime.told == "fused"
    with pytest.raises(SpecError, match=r"fashion-dit: runtime: no installed plugin offers runtime kind 'onedn'; .* did you mean 'onednn'"):
        load("fashion-dit", zoo=zoo, runtime="onedn")


def test_an_exact_runtime_is_no_part_of_a_lock_and_a_lossy_one_is(zoo):
    plain = spec_sha256(zoo.model(tiny()))
    assert spec_sha256(zoo.model(tiny(runtime="onednn"))) == plain
    assert spec_sha256(zoo.model(tiny(runtime="int8-dynamic"))) != plain


def test_views_share_hooks_and_shared_modules_stay_shared():
    inner = nn.Linear(2, 2)
    seen = view(nn.Sequential(inner, inner), lambda module: fusing.FUSED.get(type(module)))
    assert seen[0] is seen[1]
    assert type(seen[0]) is fusing.FusedLinear
    assert seen[0].weight is inner.weight


def test_compiled_blocks_share_a_graph_over_depth_batch_and_step(zoo):
    counters = torch._dynamo.utils.counters
    model = made(zoo, backbone={"depth": 4})
    plain = latents(model)
    under(model, zoo, "compile")
    counters.clear()
    assert_near(latents(model), plain)
    assert counters["stats"]["unique_graphs"] == 1
    latents(model, (0, 1, 2, 3, 4))
    latents(model, (1,), num_inference_steps=7)
    early = {"kind": "early-exit", "inner": "ddim", "policy": {"kind": "exit-residual", "prefix": 2}}
    model.spec = zoo.model(model.spec.model_dump() | {"sampler": early})
    latents(model)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
