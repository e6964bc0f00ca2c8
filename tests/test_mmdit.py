"""MM-DiT: the network of diffusers under its names and under those of the single files, any grid, and prompts of words."""

from __future__ import annotations

import pytest
import torch
from conftest import assert_near, tiny, wake
from diffusers import SD3Transformer2DModel
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers
from ditzoo_text.encoders import States

from ditzoo.assemble import build, build_meta
from ditzoo.errors import SpecError, UnknownNameError
from ditzoo.layouts import checked, to_ours, to_theirs

SD3 = {"sd3": {}, "3.5 medium": {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)}, "3.5 large": {"qk_norm": "rms_norm"}}


def theirs(**fields):
    """A tiny network of diffusers whose every parameter is something."""
    config = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 3,
        "attention_head_dim": 8,
        "num_attention_heads": 4,
        "joint_attention_dim": 24,
        "caption_projection_dim": 32,
        "pooled_projection_dim": 20,
        "pos_embed_max_size": 12,
    }
    return wake(SD3Transformer2DModel(**(config | fields)).eval(), 0.1)


def ours(zoo, network):
    """The same network here, through the layout."""
    layout = zoo.layout("diffusers-sd3")
    parts = layout.read_config(dict(network.config))
    data = {"name": "sd3", "schedule": "flow", "sampler": "euler", "codec": {"kind": "pixels", "channels": 4}, **parts}
    model = build(zoo.model(data))
    rows = checked(layout, layout.rows(model.spec, model.state_dict()), model.state_dict())
    model.load_state_dict(to_ours(rows, network.state_dict()))
    return model, rows


@pytest.mark.parametrize("kind", SD3)
@pytest.mark.parametrize("size", [(8, 8), (12, 6), (24, 24)])
def test_it_is_diffusers_network(zoo, kind, size):
    network = theirs(**SD3[kind])
    model, rows = ours(zoo, network)
    draws = torch.Generator().manual_seed(0)
    x, pooled, tokens = (
        torch.randn(2, 4, *size, generator=draws),
        torch.randn(2, 20, generator=draws),
        torch.randn(2, 7, 24, generator=draws),
    )
    t = torch.tensor([37.0, 911.0])
    with torch.no_grad():
        due = network(x, encoder_hidden_states=tokens, pooled_projections=pooled, timestep=t).sample
        assert_near(model(x, t, [States(p, s) for p, s in zip(pooled, tokens, strict=True)]), due)
    back = to_theirs(rows, model.state_dict())
    assert back.keys() == network.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in network.state_dict().items())
    assert (
        model.spec.model_dump()
        == ours(
            zoo, SD3Transformer2DModel(**{k: v for k, v in zoo.layout("diffusers-sd3").write_config(model.spec).items() if k[0] != "_"})
        )[0].spec.model_dump()
    )


@pytest.mark.parametrize("kind", SD3)
def test_single_files_are_what_diffusers_own_converter_makes_of_them(zoo, kind):
    network = theirs(**SD3[kind])
    model, _ = ours(zoo, network)
    layout = zoo.layout("sd3-single-file")
    rows = checked(layout, layout.rows(model.spec, model.state_dict()), model.state_dict())
    file = to_theirs(rows, model.state_dict())
    assert all(mark in file for mark in layout.marks)
    seen = layout.inspect(file)
    for slot, fields in (
        ("backbone", ("width", "depth", "patch", "in_channels", "table", "qk_norm")),
        ("conditioning", ("dual",)),
        ("prompt", ("pooled", "states")),
    ):
        for field in fields:
            assert seen.parts[slot][field] == getattr(getattr(model.spec, slot), field), field
    made = convert_sd3_transformer_checkpoint_to_diffusers(dict(file))
    due = network.state_dict()
    assert made.keys() == due.keys()
    assert all(torch.equal(made[name], due[name]) for name in due)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in to_ours(rows, file).items())


@pytest.mark.parametrize(("name", "billions"), [("sd3-medium", 2.028), ("sd3.5-medium", 2.243), ("sd3.5-large", 8.057)])
def test_published_sizes(zoo, name, billions):
    """Of the network and the projections of its prompt; the position table is no parameter."""
    spec = zoo.spec(name)
    assert sum(p.numel() for p in build_meta(spec).parameters()) / 1e9 == pytest.approx(billions, abs=5e-4)
    assert spec.latent_size() == (128, 128)
    assert spec.backbone.check_size((256, 128)) is None


WORDS = {"kind": "text-tokens", "vocabulary": ["red", "blue", "hair", "hat"], "length": 3, "heads": 2}
SMALL = tiny(
    backbone={"kind": "mmdit", "width": 32, "depth": 4, "heads": 2, "in_channels": 3, "input_size": [8, 8], "table": 8},
    conditioning={"kind": "joint-attention"},
    prompt=WORDS,
    schedule={"kind": "flow"},
    sampler={"kind": "euler"},
    guidance={"scale": 2.0},
    exits={"kind": "offset", "at": [1, 2]},
)


def test_prompts_of_other_lengths_do_not_change_each_other(zoo):
    model = wake(build(zoo.model(SMALL))).requires_grad_(False)
    x, t = torch.randn(3, 3, 8, 8), torch.tensor([100.0, 500.0, 900.0])
    items = model.spec.prompt.parse(["red hair, blue hat"[:8], "Blue", "red blue hat"])
    together = model(x, t, items)
    for i in range(3):
        assert_near(model(x[i : i + 1], t[i : i + 1], items[i : i + 1]), together[i : i + 1])
    assert torch.equal(model(x, t, ["red hair", "blue", "red blue hat"]), together)  # texts, as datasets have them


def test_words_are_read_and_what_cannot_be_is_told(zoo):
    prompt = zoo.part("prompt", WORDS)
    assert prompt.parse(["Red, HAIR!"]) == [(0, 2)]
    with pytest.warns(UserWarning, match="longer than the 3 words that are read; left out: 'blue'"):
        assert prompt.parse(["red hair hat blue"]) == [(0, 2, 3)]
    with pytest.raises(UnknownNameError, match="has words that this model was not trained with: blu, cat; did you mean 'blue'"):
        prompt.parse(["blu hair cat"])
    with pytest.raises(ValueError, match="words appear twice: red"):
        zoo.part("prompt", WORDS | {"vocabulary": ["red", "red"]})
    assert prompt.caption((0, 2)) == "red hair"
    built = prompt.build(32)
    assert torch.equal(built.encode([()]).vec, built.null(1).vec)
    assert built.drop(["red", "blue"], torch.tensor([0.05, 0.5])) == [(), "blue"]


@pytest.mark.parametrize(
    "sampler",
    [
        "euler",
        "unipc",
        {"kind": "early-exit", "inner": "ab2", "null_exit": 1},
        {"kind": "early-exit", "inner": "ab2", "policy": {"kind": "exit-residual", "prefix": 1}},
        {"kind": "early-exit", "inner": "ab2", "policy": {"kind": "exit-residual", "prefix": 1, "null_every": 2, "whole_above": 0.9}},
    ],
)
def test_it_is_sampled_and_leaves_early_as_any_other(zoo, sampler):
    model = wake(build(zoo.model(SMALL | {"sampler": sampler}))).requires_grad_(False)
    drawn = model.sample(prompt=["red hat", "blue hair"], negative_prompt="red", output_type="latent", seed=1)
    assert torch.isfinite(drawn.images).all()
    alone = model.sample(prompt=["red hat"], negative_prompt="red", output_type="latent", seed=1)
    assert_near(alone.images, drawn.images[:1])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sampling": {"height": 18, "width": 8}}, "the position table serves grids up to 8x8 tokens, and a latent of 18x8 is 9x4"),
        ({"sampling": {"height": 9, "width": 8}}, "patch=2 does not divide the latent 9x8"),
        ({"conditioning": "joint-attention", "backbone": {**tiny()["backbone"]}}, "conditioning 'joint-attention' requires 'two-streams'"),
        ({"prompt": {"kind": "sd3-text", "bogus": 1}}, "unknown field 'bogus'"),
    ],
)
def test_what_does_not_fit_is_refused(zoo, changes, told):
    with pytest.raises(SpecError) as refusal:
        zoo.model(SMALL | {"exits": None} | changes)
    assert told in str(refusal.value)
