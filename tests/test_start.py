"""A run that begins with a model's weights: what it keeps, what it trains, and what it cannot begin with."""

from __future__ import annotations

import pytest
import torch
from conftest import refused
from safetensors.torch import load_file

from ditzoo.training.loop import train
from ditzoo.training.recipe import read_recipe

EXITS = ["model.exits={kind='offset', at=[1]}", "losses=[{kind='exits'}]"]
PATCH = "model.backbone.patch=14"
FROZEN = [*EXITS, "start.fresh=['backbone.given_exits.*']", "start.train=['backbone.given_exits.*']"]


@pytest.fixture(scope="module")
def trained(recipe, zoo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    train(read_recipe(str(recipe), zoo), folder, quiet=True)
    return folder / "model"


@pytest.fixture(scope="module")
def short(recipe, trained, tmp_path_factory):
    """A recipe without a model: it is that of the weights."""
    text = recipe.read_text()
    head, rest = text.split("[model]", 1)
    path = tmp_path_factory.mktemp("short") / "more.toml"
    path.write_text(f'{head}\n[start]\nmodel = "local-dir:{trained}"\n[data]{rest.split("[data]", 1)[1]}')
    return path


def test_exits_are_added_to_a_model_that_stays_bit_for_bit(short, zoo, trained, tmp_path):
    told = read_recipe(str(short), zoo, FROZEN)
    assert told.model.name == "bars"
    train(told, tmp_path / "whole", quiet=True)
    before, after = load_file(trained / "model.safetensors"), load_file(tmp_path / "whole" / "model" / "model.safetensors")
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert {name for name in after if name not in before} == {"backbone.given_exits.scale.1", "backbone.given_exits.shift.1"}
    assert not torch.equal(after["backbone.given_exits.scale.1"], torch.ones(32))
    (tmp_path / "cut").mkdir()
    (tmp_path / "whole" / "checkpoint-25").rename(tmp_path / "cut" / "checkpoint-25")
    train(told, tmp_path / "cut", resume=True, quiet=True)
    resumed = load_file(tmp_path / "cut" / "model" / "model.safetensors")
    assert all(torch.equal(resumed[name], after[name]) for name in after)
    kept = load_file(tmp_path / "cut" / "checkpoint-30" / "optimizer.safetensors")
    assert {name.rsplit(".", 1)[0] for name in kept} == {"model.backbone.given_exits.scale.1", "model.backbone.given_exits.shift.1"}


def test_a_recipe_may_change_the_model_that_it_begins_with(short, zoo, tmp_path):
    path = tmp_path / "changed.toml"
    path.write_text(short.read_text() + "\n[model]\nname = 'other'\nexits = {kind = 'separate', at = [1]}\n[[losses]]\nkind = 'exits'\n")
    told = read_recipe(str(path), zoo, ["model.backbone.mlp_ratio=2.0"])
    assert (told.model.name, told.model.exits.kind, told.model.backbone.mlp_ratio) == ("other", "separate", 2.0)
    assert told.model.weights is None


def test_all_weights_go_on_from_where_they_were(short, zoo, trained, tmp_path):
    train(read_recipe(str(short), zoo, ["length.steps=1", "optimizer.lr=1e-9", "optimizer.warmup=0"]), tmp_path, quiet=True)
    before, after = load_file(trained / "model.safetensors"), load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.allclose(after[name], before[name], atol=1e-7) for name in before)


def test_what_is_fresh_is_fresh_even_where_the_weights_have_it_in_another_shape(short, zoo, trained, tmp_path):
    fresh = {"backbone.patch_embed.weight", "backbone.head_linear.weight", "backbone.head_linear.bias"}
    changed = [PATCH, "start.fresh=['backbone.patch_embed.*', 'backbone.head_linear.*']"]
    changed += ["length.steps=1", "optimizer.lr=1e-9", "optimizer.warmup=0"]
    train(read_recipe(str(short), zoo, changed), tmp_path, quiet=True)
    before, after = load_file(trained / "model.safetensors"), load_file(tmp_path / "model" / "model.safetensors")
    assert {name for name in after if after[name].shape != before[name].shape} == fresh
    assert not torch.equal(after["backbone.patch_embed.bias"], before["backbone.patch_embed.bias"])
    kept = before.keys() - fresh - {"backbone.patch_embed.bias"}
    assert all(torch.allclose(after[name], before[name], atol=1e-7) for name in kept)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ([PATCH], "or name in start.fresh what begins untrained"),
        (EXITS, "has no backbone.given_exits.scale.1, backbone.given_exits.shift.1; name what may begin untrained in start.fresh"),
        (
            [*FROZEN[:3], "start.train=['backbone.exits.*']"],
            "start.train names 'backbone.exits.*', and no parameter of 'bars' is called so",
        ),
        (["model.backbone.depth=1"], "has backbone.blocks.1.attention.k.bias, "),
        (["model.backbone.width=16"], "in 'local-dir:"),
        (["start.model=local-dir:nowhere"], "nowhere"),
        (["start.freeze=['*']"], "unknown field 'freeze'"),
    ],
)
def test_what_a_run_cannot_begin_with_is_told(short, capsys, monkeypatch, tmp_path, settings, told):
    words = [word for setting in settings for word in ("--set", setting)]
    message = refused(capsys, monkeypatch, "train", short, "--out", tmp_path / "run", *words)
    assert told in message, message
