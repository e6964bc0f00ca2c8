"""Checkpoints of the published DiT and SiT, square and not, against a reference module of our own; and every conversion there and back."""

from __future__ import annotations

import pytest
import torch
from conftest import assert_near, tiny, wake
from reference_dit import ReferenceDiT, ReferenceSiT, ddim_dit, euler_sit, train_checkpoint, woken
from safetensors.torch import save_file

import ditzoo
from ditzoo.assemble import build, build_meta
from ditzoo.conversion import convert, layout_for, translated
from ditzoo.errors import DitzooError, LayoutError, PluginError
from ditzoo.layouts import Own, Same, checked, to_ours
from ditzoo.sources import resolve

SIZES = {"square": (8, 8), "wide": (8, 16), "tall": (12, 4)}
HEADS = ["backbone.heads=4"]
DIT, SIT = ["weights.layout=original-dit"], ["weights.layout=original-sit"]


def published(kind=ReferenceDiT, size=(8, 8), **changes):
    return woken(kind(**{"input_size": size, "patch": 2, "in_channels": 4, "width": 64, "depth": 3, "heads": 4, "classes": 10} | changes))


@pytest.fixture(scope="module")
def noise():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("learn_sigma", [True, False])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kind", "layout"), [(ReferenceDiT, "original-dit"), (ReferenceSiT, "original-sit")])
def test_a_published_checkpoint_is_the_same_function(tmp_path, kind, layout, size, learn_sigma):
    reference = published(kind, SIZES[size], learn_sigma=learn_sigma)
    torch.save(reference.state_dict(), tmp_path / "x.pt")
    model = ditzoo.load(f"local-file:{tmp_path / 'x.pt'}", settings=[*HEADS, f"weights.layout={layout}"])
    assert model.spec.backbone.input_size == SIZES[size]
    x, t, labels = torch.randn(2, 4, *SIZES[size]), torch.tensor([0.15, 0.8]) * (1 if kind is ReferenceSiT else 1000), [3, 9]
    with torch.no_grad():
        expected = reference(x, t, torch.tensor(labels))
        assert_near(model(x, t, labels)[:, : expected.shape[1]], expected, 1e-5)
    qkv = reference.state_dict()["blocks.1.attn.qkv.bias"].chunk(
        3
    )  # softmax does not see the keys' bias, so outputs cannot tell it is right
    for name, expected in zip("qkv", qkv, strict=True):
        assert torch.equal(model.state_dict()[f"backbone.blocks.1.attention.{name}.bias"], expected)


@pytest.mark.parametrize("channels", [3, "all"])
def test_a_published_dit_samples_alike(tmp_path, noise, channels):
    reference = published()
    torch.save(reference.state_dict(), tmp_path / "x.pt")
    changed = [
        "sampler.kind=ddim",
        "schedule.spacing=leading",
        "guidance.scale=2.5",
        f"guidance.channels={channels if channels == 3 else chr(34) + 'all' + chr(34)}",
    ]
    model = ditzoo.load(f"local-file:{tmp_path / 'x.pt'}", settings=[*HEADS, *DIT, *changed])
    drawn = model.sample(class_labels=[3, 9], num_inference_steps=10, latents=noise, output_type="latent").images
    labels, null = torch.tensor([3, 9]), 10
    expected = ddim_dit(reference, noise, labels, null, 2.5, list(range(900, -1, -100)), channels=None if channels == "all" else channels)
    assert_near(drawn, expected, 1e-5)


def test_a_published_sit_runs_its_own_time_and_velocity(tmp_path, noise):
    reference = published(ReferenceSiT)
    torch.save(reference.state_dict(), tmp_path / "x.pt")
    model = ditzoo.load(f"local-file:{tmp_path / 'x.pt'}", settings=[*HEADS, *SIT, "sampler.kind=ddim", "guidance.scale=2.5"])
    drawn = model.sample(class_labels=[3, 9], num_inference_steps=10, latents=noise, output_type="latent").images
    labels, null = torch.tensor([3, 9]), 10
    assert_near(drawn, euler_sit(reference, noise, labels, null, 2.5, 10, channels=3), 1e-5)  # ddim on a straight path is Euler
    as_dit = ditzoo.load(f"local-file:{tmp_path / 'x.pt'}", settings=[*HEADS, *DIT, "sampler.kind=ddim", "guidance.scale=2.5"])
    other = as_dit.sample(class_labels=[3, 9], num_inference_steps=10, latents=noise, output_type="latent").images
    assert (other - drawn).abs().max() > 0.1 * drawn.abs().max()  # which of the two it is has to be told, and matters


def test_a_training_checkpoint_gives_its_average_unless_told(tmp_path, zoo):
    reference = published()
    saved = train_checkpoint(reference, drift=1.66e-4)  # what averaging a frozen table does to it
    torch.save(saved, tmp_path / "x.pt")
    name = f"local-file:{tmp_path / 'x.pt'}"
    averaged, trained = (ditzoo.load(name, settings=[*HEADS, *DIT, *more]) for more in ([], ["weights.entry=model"]))
    assert torch.equal(averaged.state_dict()["prompt.table.weight"], saved["ema"]["y_embedder.embedding_table.weight"])
    assert torch.equal(trained.state_dict()["prompt.table.weight"], saved["model"]["y_embedder.embedding_table.weight"])
    assert "took 'ema' out of x.pt, which also holds model, opt, args" in "\n".join(resolve(name, zoo, [*HEADS, *DIT]).notes)


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ({"width": 384, "heads": 6, "depth": 12}, ["blocks 0-11: depth 12", "heads 6, as every DiT-S has"]),
        ({"width": 384, "heads": 6, "depth": 4}, ["blocks 4-11 absent: depth 4, where DiT-S has 12", "heads 6, as every DiT-S has"]),
    ],
)
def test_structure_is_read_off_the_keys_and_explained(tmp_path, zoo, shape, told):
    torch.save(published(**shape).state_dict(), tmp_path / "x.pt")
    found = resolve(f"local-file:{tmp_path / 'x.pt'}", zoo, DIT)
    notes = "\n".join(found.notes)
    for part in (
        *told,
        "label table of 11 rows: 10 classes and the null row",
        "pos_embed is the table of 4x4 tokens: latents of 8x8",
        "4 channels: taken for",
    ):
        assert part in notes
    assert (found.spec.backbone.depth, found.spec.backbone.heads, found.spec.backbone.patch) == (shape["depth"], 6, 2)
    assert found.spec.backbone.numerics == "original"
    assert found.spec.guidance.channels == 3
    assert found.spec.sampler.variance == "learned"


def test_a_lone_file_in_diffusers_names_asks_for_what_is_not_in_it(tmp_path, zoo):
    spec = zoo.model(tiny(backbone={"numerics": "diffusers", "width": 64, "heads": 4, "in_channels": 4}, codec={"channels": 4}))
    model = wake(build(spec))
    save_file({name: tensor.clone() for name, tensor in translated(model, zoo.layout("diffusers-dit")).items()}, tmp_path / "x.safetensors")
    name = f"local-file:{tmp_path / 'x.safetensors'}"
    with pytest.raises(DitzooError) as refused:
        ditzoo.load(name)
    for word in ("backbone.heads=N", "backbone.input_size=", "schedule.kind=KIND", "sampler.kind=KIND", "codec.kind=KIND"):
        assert word in str(refused.value)
    answers = [
        "backbone.heads=4",
        "backbone.input_size=[8, 8]",
        "schedule.kind=linear",
        "sampler.kind=ddim",
        "codec.kind=pixels",
        "codec.channels=4",
    ]
    again = ditzoo.load(name, settings=answers)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert again.spec.weights.latent.channels == 4


PAIRS = [
    (a, b)
    for a in ("ditzoo", "original-dit", "original-sit", "original-dit.safetensors")
    for b in ("ditzoo", "original-dit", "original-sit", "original-dit.safetensors")
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_conversions_are_exact(tmp_path, zoo, first, second):
    """There in one layout, on in another: every bit is as it was, and so is the output."""
    flow = {"kind": "flow", "prediction": "velocity-to-data", "time_scale": 1.0, "time_reversed": True}
    spec = zoo.model(
        tiny(backbone={"learn_sigma": True, "input_size": [8, 16]}, schedule=flow if "sit" in first + second else {"kind": "linear"})
    )
    if {"original-dit", "original-sit"} <= {first.split(".")[0], second.split(".")[0]}:
        with pytest.raises(LayoutError, match="schedule.kind=flow, where it means linear"):
            layout_for(spec, "original-dit", zoo)
        return
    model = wake(build(spec)).to(torch.bfloat16 if first == "ditzoo" else torch.float32)
    model.save_pretrained(tmp_path / "start")
    here = f"local-dir:{tmp_path / 'start'}"
    settings: list[str] = []
    for number, step in enumerate((first, second)):
        layout, _, suffix = step.partition(".")
        target = tmp_path / f"{number}{'' if layout == 'ditzoo' else '.' + (suffix or 'pt')}"
        done = convert(resolve(here, zoo, settings), target, layout, verify=True)
        assert done.tensors == len(model.state_dict())
        assert done.apart == 0
        here = f"local-dir:{target}" if target.is_dir() else f"local-file:{target}"
        settings = [] if target.is_dir() else [f"weights.layout={layout}", "backbone.heads=2", "codec.kind=pixels"]
    back = ditzoo.load(here, settings=settings, dtype="keep").state_dict()
    assert all(torch.equal(tensor, back[name]) and tensor.dtype == back[name].dtype for name, tensor in model.state_dict().items())


REFUSALS = {
    "prediction": ({"schedule": {"prediction": "v"}}, "original", ["schedule.prediction=v, where it means eps"]),
    "conditioning": ({"conditioning": {"kind": "adaln"}}, "original", ["conditioning.kind=adaln, where it means adaln-zero"]),
    "numerics": ({}, "diffusers", ["backbone.numerics=original, where it means diffusers", "--set these if they are what you want"]),
    "no null": ({"prompt": {"dropout": 0.0}}, "original-dit", ["always has a null row, and prompt.dropout is 0"]),
    "heads": ({"backbone": {"width": 384, "depth": 12, "heads": 12}}, "original-dit", ["is read as 6 heads, and this model has 12"]),
    "oblong": (
        {
            "backbone": {"numerics": "diffusers", "input_size": [8, 16], "in_channels": 4},
            "prompt": {"classes": 1000},
            "codec": {"kind": "autoencoder-kl"},
        },
        "diffusers",
        ["diffusers' DiT is square, and backbone.input_size is 8x16; no native class can express it"],
    ),
    "codec": (
        {"backbone": {"numerics": "diffusers"}, "prompt": {"classes": 1000}},
        "diffusers",
        ["decodes with an AutoencoderKL, and the codec is 'pixels'"],
    ),
    "sampler": (
        {
            "backbone": {"numerics": "diffusers", "in_channels": 4},
            "prompt": {"classes": 1000},
            "codec": {"kind": "autoencoder-kl"},
            "sampler": {"kind": "heun"},
        },
        "diffusers",
        ["sampler 'heun' as it is set is not what a diffusers pipeline does", "set sampler.kind=ddim"],
    ),
    "no such layout": ({}, "difusers", ["no layout or family of layouts 'difusers'; did you mean 'diffusers'"]),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_a_layout_cannot_hold_is_refused_before_anything_is_loaded(zoo, case):
    changes, family, told = REFUSALS[case]
    with pytest.raises(DitzooError) as refused:
        layout_for(zoo.model(tiny(**changes)), family, zoo)
    for part in told:
        assert part in str(refused.value)


def test_copies_that_were_trained_apart_are_refused(zoo):
    spec = zoo.model(tiny(backbone={"numerics": "diffusers"}))
    model, layout = wake(build(spec)), zoo.layout("diffusers-dit")
    theirs = {name: tensor.clone() for name, tensor in translated(model, layout).items()}
    theirs["transformer_blocks.2.norm1.emb.timestep_embedder.linear_1.weight"][0, 0] += 1e-7
    with pytest.raises(
        LayoutError,
        match=r"transformer_blocks.2.norm1.emb.timestep_embedder.linear_1.weight differs from transformer_blocks.0.*trained apart",
    ):
        to_ours(layout.rows(spec, model.state_dict()), theirs)


def test_a_table_that_does_not_name_each_tensor_once_is_the_layouts_fault(zoo):
    own = build_meta(zoo.model(tiny())).state_dict()
    rows = Own().rows(zoo.model(tiny()), own)
    with pytest.raises(PluginError, match="layout 'ditzoo' does not pair each tensor of this model once: prompt.table.weight"):
        checked(Own(), [row for row in rows if row.ours != ("prompt.table.weight",)], own)
    with pytest.raises(PluginError, match="backbone.head_linear.bias"):
        checked(Own(), [*rows, Same(("again",), ("backbone.head_linear.bias",))], own)


def test_nothing_is_overwritten(tmp_path, zoo):
    (tmp_path / "x.pt").write_bytes(b"mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_bytes(b"mine")
    model = build(zoo.model(tiny()))
    model.save_pretrained(tmp_path / "start")
    found = resolve(f"local-dir:{tmp_path / 'start'}", zoo)
    for target, family, told in (
        ("x.pt", "original", "exists"),
        ("folder", "ditzoo", "not an empty folder"),
        ("y", "original", "is a single file: write"),
    ):
        with pytest.raises(DitzooError, match=told):
            convert(found, tmp_path / target, family)
    assert (tmp_path / "x.pt").read_bytes() == b"mine"
