"""PixArt: the network of diffusers under its names, and whole pipelines by name that draw diffusers' pictures and are written back."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import assert_near, run_ditzoo
from diffusers import PixArtTransformer2DModel
from ditzoo_text.encoders import States
from pipelines import change
from pixart_pipeline import KINDS, network, tiny_pixart
from safetensors.torch import save_file

import ditzoo
from ditzoo.assemble import build, build_meta
from ditzoo.errors import LayoutError, SpecError
from ditzoo.layouts import checked, to_ours, to_theirs
from ditzoo.sources import resolve

PROMPTS = ["A red cat ", "blue hat with words"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DITZOO_CACHE", str(tmp_path / "cache"))


def ours(zoo, theirs):
    """The same network here, through the layout."""
    layout = zoo.layout("diffusers-pixart")
    parts = layout.read_config(dict(theirs.config))
    data = {"name": "pixart", "schedule": "linear", "sampler": "ddim", "codec": {"kind": "pixels", "channels": 4}, **parts}
    data["conditioning"] |= {"pixels": 2}  # a pixel a cell here, and two cells a token
    model = build(zoo.model(data))
    rows = checked(layout, layout.rows(model.spec, model.state_dict()), model.state_dict())
    model.load_state_dict(to_ours(rows, theirs.state_dict()))
    return model, rows


@pytest.mark.parametrize("masked", [True, False], ids=["mask", "no mask"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(16, 16), (32, 12), (8, 20)])
def test_it_is_diffusers_network(zoo, kind, size, masked):
    theirs = network(**KINDS[kind])
    model, rows = ours(zoo, theirs)
    draws = torch.Generator().manual_seed(0)
    x, tokens = torch.randn(2, 4, *size, generator=draws), torch.randn(2, 7, 40, generator=draws)
    mask = torch.tensor([[True] * 7, [True] * 3 + [False] * 4]) if masked else None
    t = torch.tensor([37.0, 911.0])
    sizes = {
        "resolution": torch.tensor([[float(extent) for extent in size]] * 2),
        "aspect_ratio": torch.tensor([[size[0] / size[1]]] * 2),
    }
    with torch.no_grad():
        due = theirs(x, encoder_hidden_states=tokens, timestep=t, encoder_attention_mask=mask, added_cond_kwargs=sizes).sample
        said = [States(tokens.new_zeros(0), one, None if mask is None else mask[i]) for i, one in enumerate(tokens)]
        assert_near(model(x, t, said), due)
    back = to_theirs(rows, model.state_dict())
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in theirs.state_dict().items())
    config = {name: value for name, value in zoo.layout("diffusers-pixart").write_config(model.spec).items() if name[0] != "_"}
    assert ours(zoo, PixArtTransformer2DModel(**config))[0].spec == model.spec


@pytest.mark.parametrize(
    ("name", "millions"), [("pixart-alpha-xl-2-512", 610.856), ("pixart-alpha-xl-2-1024", 611.350), ("pixart-sigma-xl-2-1024", 610.856)]
)
def test_published_sizes_are_diffusers_own(zoo, name, millions):
    """To the parameter: the network with the projection of its prompt, as diffusers counts it."""
    spec = zoo.spec(name)
    with torch.device("meta"):
        theirs = zoo.layout("diffusers-pixart").their_network(spec)
    count = sum(p.numel() for p in build_meta(spec).parameters())
    assert count == sum(p.numel() for p in theirs.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=1e-3)


SMALL = {"alpha 512": (16, 16), "alpha 1024": (12, 20), "sigma 1024": (20, 12)}


def pictures(pipeline, noise, **more):
    pipeline.set_progress_bar_config(disable=True)
    size = {"height": noise.shape[2] * 2, "width": noise.shape[3] * 2}
    asked = {"prompt": PROMPTS, "guidance_scale": 4.5} | more
    return pipeline(
        num_inference_steps=6, latents=noise.clone(), output_type="pt", use_resolution_binning=False, clean_caption=False, **size, **asked
    ).images


def drawn(model, noise, **more):
    size = {"height": noise.shape[2] * 2, "width": noise.shape[3] * 2}
    asked = {"prompt": PROMPTS, "guidance_scale": 4.5} | more
    return model.sample(num_inference_steps=6, latents=noise, output_type="pt", **size, **asked).images


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("more", [{}, {"negative_prompt": "bad"}], ids=["guided", "negative"])
def test_a_pipeline_by_name_draws_diffusers_pictures(server, tmp_path, kind, more):
    pipeline = tiny_pixart(tmp_path / "pixart", kind)
    server.add_folder("PixArt-alpha/tiny", tmp_path / "pixart")
    model = ditzoo.load("hf-hub:PixArt-alpha/tiny")
    noise = torch.randn(2, 4, *SMALL[kind], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        tokens, mask, *_ = pipeline.encode_prompt(PROMPTS, False, max_sequence_length=model.spec.prompt.length)
        extents = torch.tensor([[2.0 * extent for extent in SMALL[kind]]] * 2)
        sizes = {"resolution": extents, "aspect_ratio": extents[:, :1] / extents[:, 1:]}
        t = torch.tensor([37.0, 911.0])
        told = {"encoder_hidden_states": tokens, "encoder_attention_mask": mask, "timestep": t, "added_cond_kwargs": sizes}
        assert_near(model(noise, t, model.spec.prompt.parse(PROMPTS)), pipeline.transformer(noise, **told).sample)
    due = pictures(pipeline, noise, **more)
    assert float(due.std()) > 0.05
    torch.testing.assert_close(drawn(model, noise, **more), due, atol=1e-4, rtol=0)
    assert model.spec.prompt.length == (300 if kind.startswith("sigma") else 120)


def test_an_old_repository_names_the_class_that_was_dits_too(tmp_path, zoo):
    """Published PixArt repositories say `Transformer2DModel`, as published DiT does; the config tells which it is."""
    tiny_pixart(tmp_path / "pixart", "alpha 512")
    index = json.loads((tmp_path / "pixart" / "model_index.json").read_text())
    change(tmp_path / "pixart" / "model_index.json", transformer=["diffusers", "Transformer2DModel"])
    config = {"_class_name": "Transformer2DModel", "num_vector_embeds": None, "only_cross_attention": False, "double_self_attention": False}
    change(tmp_path / "pixart" / "transformer" / "config.json", use_additional_conditions=..., interpolation_scale=..., **config)
    assert index["transformer"][1] == "PixArtTransformer2DModel"
    found = resolve(f"local-dir:{tmp_path / 'pixart'}", zoo)
    assert found.spec.weights.layout == "diffusers-pixart"
    ditzoo.load(f"local-dir:{tmp_path / 'pixart'}")


def test_it_is_written_back_as_it_was(tmp_path):
    for kind in ("alpha 1024", "sigma 1024"):
        first = tiny_pixart(tmp_path / kind, kind)
        done = run_ditzoo("convert", f"local-dir:{tmp_path / kind}", tmp_path / f"{kind} back", "--to", "diffusers", "--verify")
        assert done.returncode == 0, done.stderr
        again = type(first).from_pretrained(tmp_path / f"{kind} back")
        assert type(again.scheduler) is type(first.scheduler)
        for part in ("transformer", "vae", "text_encoder"):
            before, after = getattr(first, part).state_dict(), getattr(again, part).state_dict()
            assert all(torch.equal(before[name], after[name]) for name in before)
        noise = torch.randn(2, 4, 12, 20, generator=torch.Generator().manual_seed(1))
        assert torch.equal(pictures(first, noise), pictures(again, noise))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["conditioning.pixels=16"], "a token spans 4 pixels (backbone.patch=2 times codec.factor=2) and conditioning.pixels is 16"),
        (["prompt.states=64"], "the encoders of '{folder}' say vectors of another width: set prompt.states=40 (found 64)"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_loaded(tmp_path, zoo, settings, told):
    tiny_pixart(tmp_path / "pixart", "alpha 1024")
    with pytest.raises(SpecError) as refusal:
        resolve(f"local-dir:{tmp_path / 'pixart'}", zoo, settings)
    assert told.format(folder=tmp_path / "pixart") in str(refusal.value)


def test_another_network_is_told(zoo):
    config = dict(network(sample_size=16).config) | {"norm_eps": 1e-5, "caption_channels": None, "qk_norm": "rms"}
    with pytest.raises(LayoutError, match=r"norm_eps=1e-05 \(here 1e-06\); unknown field qk_norm='rms'; caption_channels=None"):
        zoo.layout("diffusers-pixart").read_config(config)


def test_a_lone_file_tells_its_structure_and_asks_for_the_rest(tmp_path, zoo):
    theirs = network(**KINDS["alpha 1024"])
    save_file(theirs.state_dict(), tmp_path / "pixart.safetensors")
    with pytest.raises(SpecError) as asked:
        resolve(f"local-file:{tmp_path / 'pixart.safetensors'}", zoo)
    for path in ("backbone.heads", "backbone.input_size", "schedule.kind", "sampler.kind", "codec.kind"):
        assert path in str(asked.value)
    settings = ["backbone.heads=4", "backbone.input_size=[128,128]", "backbone.interpolation_scale=2", "conditioning.pixels=2"]
    settings += ["schedule.kind=linear", "sampler.kind=ddim", "codec.kind=pixels", "codec.channels=4"]
    model = ditzoo.load(f"local-file:{tmp_path / 'pixart.safetensors'}", settings=settings)
    assert torch.equal(
        model.state_dict()["backbone.blocks.2.cross.q.weight"], theirs.state_dict()["transformer_blocks.2.attn2.to_q.weight"]
    )
    assert model.spec.conditioning.sizes
