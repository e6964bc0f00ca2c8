"""A whole Stable Diffusion 3 pipeline by name: the pictures are diffusers', and it can be written back."""

from __future__ import annotations

import pytest
import torch
from conftest import run_ditzoo
from diffusers import StableDiffusion3Pipeline
from sd3_pipeline import tiny_sd3

import ditzoo
from ditzoo.errors import CheckpointError, SamplingError

PROMPTS = ["a red cat", "blue hat with words"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines") / "sd3"
    tiny_sd3(folder)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DITZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def theirs(pipeline, noise, **more):
    pipeline.set_progress_bar_config(disable=True)
    size = {"height": noise.shape[2] * 2, "width": noise.shape[3] * 2}
    asked = {"prompt": PROMPTS, "guidance_scale": 4.0} | more
    return pipeline(num_inference_steps=6, latents=noise.clone(), output_type="pt", **size, **asked).images


def ours(model, noise, **more):
    size = {"height": noise.shape[2] * 2, "width": noise.shape[3] * 2}
    asked = {"prompt": PROMPTS, "guidance_scale": 4.0} | more
    return model.sample(num_inference_steps=6, latents=noise, output_type="pt", **size, **asked).images


@pytest.mark.parametrize("size", [(8, 8), (12, 6)])
@pytest.mark.parametrize("more", [{}, {"negative_prompt": "bad"}, {"guidance_scale": 1.0}], ids=["guided", "negative", "unguided"])
def test_the_same_pictures(folder, size, more):
    noise = torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(1))
    due = theirs(StableDiffusion3Pipeline.from_pretrained(folder), noise, **more)
    found = ours(ditzoo.load(f"local-dir:{folder}"), noise, **more)
    assert float(due.std()) > 0.05
    torch.testing.assert_close(found, due, atol=1e-4, rtol=0)


def test_by_name_through_the_hub(server, folder):
    server.add_folder("stabilityai/tiny", folder)
    noise = torch.randn(2, 4, 12, 6, generator=torch.Generator().manual_seed(1))
    due = theirs(StableDiffusion3Pipeline.from_pretrained(folder), noise)
    torch.testing.assert_close(ours(ditzoo.load("hf-hub:stabilityai/tiny"), noise), due, atol=1e-4, rtol=0)


def test_a_prompt_for_each_encoder(folder):
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    other = {"prompt_2": ["green", "grey"], "prompt_3": ["long", "short"]}
    due = theirs(StableDiffusion3Pipeline.from_pretrained(folder), noise, **other)
    asked = [{"prompt": one, "prompt_2": two, "prompt_3": three} for one, two, three in zip(PROMPTS, *other.values(), strict=True)]
    found = ours(ditzoo.load(f"local-dir:{folder}"), noise, prompt=asked)
    torch.testing.assert_close(found, due, atol=1e-4, rtol=0)


def test_without_t5_only_where_that_is_asked_for(tmp_path):
    pipeline = tiny_sd3(tmp_path / "sd3", t5=False)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    model = ditzoo.load(f"local-dir:{tmp_path / 'sd3'}")
    with pytest.raises(
        CheckpointError, match=r"has no text_encoder_3 .*; set prompt.t5=false to go on without it, at the cost of long prompts"
    ):
        ours(model, noise)
    model = ditzoo.load(f"local-dir:{tmp_path / 'sd3'}", settings=["prompt.t5=false"])
    torch.testing.assert_close(ours(model, noise), theirs(pipeline, noise), atol=1e-4, rtol=0)


def test_what_encoders_said_is_kept_and_they_can_be_freed(folder, cache, monkeypatch):
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    model = ditzoo.load(f"local-dir:{folder}")
    first = ours(model, noise)
    assert len(list((cache / "prompts").iterdir())) == 3  # two prompts and the empty one
    model.prompt.encoders.free()
    again = ditzoo.load(f"local-dir:{folder}")
    monkeypatch.setattr(type(again.prompt.encoders), "_load", lambda self, folder: pytest.fail("an encoder was opened"))
    assert torch.equal(ours(again, noise), first)


def test_a_prompt_that_is_too_long_is_told_with_what_is_cut(folder):
    model = ditzoo.load(f"local-dir:{folder}")
    with pytest.warns(UserWarning, match="longer than the 77 tokens that 'tokenizer' reads; left out: 'a a"):
        model.prompt.encode(model.spec.prompt.parse(["a " * 90]))


def test_it_is_written_back_as_it_was(folder, tmp_path):
    done = run_ditzoo("convert", f"local-dir:{folder}", tmp_path / "back", "--to", "diffusers", "--verify")
    assert done.returncode == 0, done.stderr
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    before, after = (StableDiffusion3Pipeline.from_pretrained(one) for one in (folder, tmp_path / "back"))
    assert all(
        torch.equal(a, b) for a, b in zip(before.transformer.state_dict().values(), after.transformer.state_dict().values(), strict=True)
    )
    assert torch.equal(theirs(before, noise), theirs(after, noise))


@pytest.mark.parametrize(
    ("asked", "told"), [(3, "a prompt is a text, or a table of prompt, prompt_2, prompt_3"), ({"prompt_2": "x"}, "with the first at least")]
)
def test_what_is_no_prompt_is_told(folder, asked, told):
    with pytest.raises(SamplingError, match=told):
        ditzoo.load(f"local-dir:{folder}").sample(prompt=asked)
