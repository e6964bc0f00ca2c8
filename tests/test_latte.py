"""Latte: published checkpoints against a reference of our own, diffusers' network under its names, and whole pipelines by name."""

from __future__ import annotations

import pytest
import torch
from conftest import assert_near, run_ditzoo
from diffusers import LattePipeline, LatteTransformer3DModel
from ditzoo_text.encoders import States
from latte_pipeline import network, tiny_latte
from reference_latte import ReferenceLatte, woken
from safetensors.torch import save_file

import ditzoo
from ditzoo.assemble import build, build_meta
from ditzoo.conversion import convert
from ditzoo.errors import CheckpointError, LayoutError, SamplingWarning, SpecError
from ditzoo.layouts import checked, to_ours, to_theirs
from ditzoo.sources import resolve

SIZES = {"square": (4, 8, 8), "wide": (3, 4, 12), "tall": (5, 8, 4)}
HEADS = ["backbone.heads=4"]


def published(size=(4, 8, 8), **changes):
    shape = {"patch": 2, "in_channels": 4, "width": 64, "depth": 4, "heads": 4, "classes": 5}
    return woken(ReferenceLatte(**({"input_size": size} | shape | changes)))


def ours(zoo, theirs):
    """diffusers' network here, through the layout."""
    layout = zoo.layout("diffusers-latte")
    parts = layout.read_config(dict(theirs.config))
    data = {"name": "latte", "schedule": "linear", "sampler": "ddim", "codec": {"kind": "pixels", "channels": 4}, **parts}
    model = build(zoo.model(data))
    rows = checked(layout, layout.rows(model.spec, model.state_dict()), model.state_dict())
    model.load_state_dict(to_ours(rows, theirs.state_dict()))
    return model, rows


@pytest.mark.parametrize("learn_sigma", [True, False])
@pytest.mark.parametrize("classes", [5, None])
@pytest.mark.parametrize("size", SIZES)
def test_a_published_checkpoint_is_the_same_function(tmp_path, size, classes, learn_sigma):
    reference = published(SIZES[size], classes=classes, learn_sigma=learn_sigma)
    state = reference.state_dict()
    torch.save({"model": {name: 0 * p for name, p in state.items()}, "ema": state}, tmp_path / "latte.pt")
    model = ditzoo.load(f"local-file:{tmp_path / 'latte.pt'}", settings=HEADS)
    spec = model.spec
    assert spec.backbone.input_size == SIZES[size]
    assert spec.weights.layout == ("original-latte" if classes else "original-latte-unconditional")
    assert spec.guidance.scale == (7.0 if classes else 1.0)
    x, t = torch.randn(2, 4, *SIZES[size], generator=torch.Generator().manual_seed(0)), torch.tensor([150.0, 800.0])
    labels = [3, 5] if classes else [None, None]
    with torch.no_grad():
        expected = reference(x, t, torch.tensor(labels) if classes else None)
        assert_near(model(x, t, labels), expected)
    target = tmp_path / "back.pt"
    done = convert(resolve(f"local-file:{tmp_path / 'latte.pt'}", ditzoo.Zoo.installed(), HEADS), target, "original", verify=True)
    assert (done.layout, done.apart) == (spec.weights.layout, 0)
    back = torch.load(target, weights_only=True)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items() if not name.endswith("_embed"))


def test_a_name_of_the_published_sizes_tells_its_heads(tmp_path, zoo):
    torch.save(published(width=384, heads=6, depth=2).state_dict(), tmp_path / "latte.pt")
    found = resolve(f"local-file:{tmp_path / 'latte.pt'}", zoo)
    assert (found.spec.backbone.heads, found.spec.codec.kind, found.spec.sampler.kind) == (6, "autoencoder-kl", "ddpm")
    notes = "\n".join(found.notes)
    for told in ("4 frames of latents of 8x8", "heads 6, as every Latte of width 384", "label table of 6 rows: 5 classes and the null row"):
        assert told in notes


@pytest.mark.parametrize("name", ["pos_embed", "temp_embed"])
def test_a_table_that_was_trained_is_refused(tmp_path, zoo, name):
    state = published().state_dict()
    torch.save(state | {name: state[name] + 0.1}, tmp_path / "latte.pt")
    with pytest.raises(LayoutError, match=rf"{name} .*is(| not) the sine-cosine table"):
        resolve(f"local-file:{tmp_path / 'latte.pt'}", zoo, HEADS)


def test_what_is_no_latte_is_not_written_as_one(zoo):
    spec = zoo.spec("latte-xl-2-ucf101")
    layout = zoo.layout("original-latte")
    assert layout.refuse(spec) is None
    for changes, told in [
        ({"depth": 27}, "backbone.depth is 27; set an even one"),
        ({"patch": (2, 2, 2)}, "squares of one frame, and backbone.patch is 2x2x2"),
        ({"heads": 8}, "width 1152 with depth 28 is read as 16 heads, and this model has 8"),
    ]:
        changed = spec.model_copy(update={"backbone": spec.backbone.model_copy(update=changes)})
        assert told in layout.refuse(changed)


@pytest.mark.parametrize(("frames", "said"), [(2, "have its first 2"), (4, None), (8, "is interpolated"), (1, None)])
def test_frames_follow_the_table_or_are_interpolated_and_it_is_said(tmp_path, recwarn, frames, said):
    torch.save(published().state_dict(), tmp_path / "latte.pt")
    model = ditzoo.load(f"local-file:{tmp_path / 'latte.pt'}", settings=HEADS)
    drawn = model.sample(class_labels=[1], num_frames=frames, num_inference_steps=2, guidance_scale=1, output_type="latent")
    assert drawn.frames.shape == (1, 4, frames, 8, 8)
    told = [str(one.message) for one in recwarn if one.category is SamplingWarning]
    assert len(told) == (said is not None)
    assert all(f"{frames} frames, and the table of frames was trained with 4" in one and said in one for one in told)
    tables = model.backbone.places.tables((frames, 4, 4))
    whole = model.backbone.places.tables((4, 4, 4))[1][::16]
    if frames == 8:  # squeezed into the trained four: every other is one of them
        torch.testing.assert_close(tables[1][::32], whole)
    else:
        assert torch.equal(tables[1][::16], whole[:frames] if frames > 1 else torch.zeros(1, 64))


@pytest.mark.parametrize("fields", [{}, {"sample_size": 128}, {"out_channels": 4}], ids=["16", "scaled", "plain"])
@pytest.mark.parametrize("size", [(3, 16, 16), (3, 32, 12), (3, 8, 20), (1, 16, 16)])
def test_it_is_diffusers_network(zoo, fields, size):
    theirs = network(**fields)
    model, rows = ours(zoo, theirs)
    draws = torch.Generator().manual_seed(0)
    x, tokens, t = torch.randn(2, 4, *size, generator=draws), torch.randn(2, 7, 40, generator=draws), torch.tensor([37.0, 911.0])
    with torch.no_grad():
        due = theirs(x, encoder_hidden_states=tokens, timestep=t).sample
        assert_near(model(x, t, [States(tokens.new_zeros(0), one, None) for one in tokens]), due)
    back = to_theirs(rows, model.state_dict())
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in theirs.state_dict().items())
    config = {name: value for name, value in zoo.layout("diffusers-latte").write_config(model.spec).items() if name[0] != "_"}
    assert ours(zoo, LatteTransformer3DModel(**config))[0].spec == model.spec


def test_the_published_size_is_diffusers_own(zoo):
    spec = zoo.spec("latte-1")
    with torch.device("meta"):
        theirs = zoo.layout("diffusers-latte").their_network(spec)
    assert sum(p.numel() for p in build_meta(spec).parameters()) == sum(p.numel() for p in theirs.parameters())


# one text is cut to its tokens by the pipeline, and so is what guidance leads away from; of more nothing is masked
@pytest.mark.parametrize(
    "asked", [{"guidance_scale": 1.0}, {"guidance_scale": 4.0, "negative_prompt": "blue hat with words"}], ids=["plain", "guided"]
)
def test_a_pipeline_by_name_draws_diffusers_clips(server, tmp_path, monkeypatch, asked):
    monkeypatch.setenv("DITZOO_CACHE", str(tmp_path / "cache"))
    pipeline = tiny_latte(tmp_path / "latte")
    server.add_folder("maxin-cn/tiny", tmp_path / "latte")
    model = ditzoo.load("hf-hub:maxin-cn/tiny")
    assert (model.spec.pixel_size(), model.spec.guidance.scale, model.spec.sampling.steps) == ((3, 32, 32), 7.5, 50)
    noise = torch.randn(1, 4, 3, 12, 20, generator=torch.Generator().manual_seed(1))
    request = {"prompt": ["a red cat has words"], "height": 24, "width": 40, "num_inference_steps": 5} | asked
    pipeline.set_progress_bar_config(disable=True)
    due = pipeline(video_length=3, latents=noise.clone(), output_type="pt", clean_caption=False, **request).frames
    if asked["guidance_scale"] == 1:
        request.pop("negative_prompt", None)
    drawn = model.sample(latents=noise, output_type="pt", **request).frames
    assert float(due.std()) > 0.05
    torch.testing.assert_close(drawn, due.transpose(1, 2), atol=1e-4, rtol=0)


def test_a_pipeline_is_written_back_as_it_was(tmp_path):
    first = tiny_latte(tmp_path / "latte")
    done = run_ditzoo("convert", f"local-dir:{tmp_path / 'latte'}", tmp_path / "back", "--to", "diffusers", "--verify")
    assert done.returncode == 0, done.stderr
    again = LattePipeline.from_pretrained(tmp_path / "back")
    assert type(again.scheduler) is type(first.scheduler)
    for part in ("transformer", "vae", "text_encoder"):
        before, after = getattr(first, part).state_dict(), getattr(again, part).state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_another_network_is_told(zoo):
    config = dict(network().config) | {"norm_eps": 1e-5, "caption_channels": None, "qk_norm": "rms"}
    with pytest.raises(LayoutError, match=r"norm_eps=1e-05 \(here 1e-06\); unknown field qk_norm='rms'; caption_channels is not told"):
        zoo.layout("diffusers-latte").read_config(config)


def test_a_lone_file_of_diffusers_tells_its_structure_and_asks_for_the_rest(tmp_path, zoo):
    theirs = network()
    save_file(theirs.state_dict(), tmp_path / "latte.safetensors")
    name = f"local-file:{tmp_path / 'latte.safetensors'}"
    with pytest.raises(SpecError) as asked:
        resolve(name, zoo)
    for path in ("backbone.heads", "backbone.input_size", "schedule.kind", "sampler.kind", "codec.kind"):
        assert path in str(asked.value)
    settings = ["backbone.heads=4", "backbone.input_size=[3,16,16]", "schedule.kind=linear", "sampler.kind=ddim", "codec.kind=pixels"]
    model = ditzoo.load(name, settings=[*settings, "codec.channels=4"])
    assert model.spec.weights.layout == "diffusers-latte"
    for theirs_name, ours_name in [
        ("transformer_blocks.1.attn2.to_q", "2.cross.q"),
        ("temporal_transformer_blocks.1.ff.net.2", "3.mlp.fc2"),
    ]:
        assert torch.equal(model.state_dict()[f"backbone.blocks.{ours_name}.weight"], theirs.state_dict()[f"{theirs_name}.weight"])


def test_nothing_in_a_pickle_is_run(tmp_path, zoo):
    torch.save({"ema": published().state_dict(), "opt": ReferenceLatte}, tmp_path / "latte.pt")
    with pytest.raises(CheckpointError, match="it asks to run reference_latte.ReferenceLatte, which ditzoo never does"):
        resolve(f"local-file:{tmp_path / 'latte.pt'}", zoo, HEADS)
