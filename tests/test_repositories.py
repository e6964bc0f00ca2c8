"""Whole repositories in diffusers' layout, there and back: the same function, the same pictures, nothing left out in silence."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import torch
from conftest import assert_near, run_ditzoo
from pipelines import LABELS, change, pipeline, published, written

import ditzoo
from ditzoo.conversion import convert
from ditzoo.errors import DitzooError
from ditzoo.sources import resolve


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    return written(tmp_path_factory.mktemp("repository") / "dit")


@pytest.fixture
def copied(repository, tmp_path):
    return shutil.copytree(repository, tmp_path / "dit")


def drawn_by(pipe, scale, seed=3):
    pipe.set_progress_bar_config(disable=True)
    options = {"guidance_scale": scale, "generator": torch.Generator().manual_seed(seed), "num_inference_steps": 10, "output_type": "np"}
    return torch.from_numpy(pipe([207, 360], **options).images).permute(0, 3, 1, 2)


def drawn(model, scale, seed=3):
    options = {"guidance_scale": scale, "generator": torch.Generator().manual_seed(seed), "num_inference_steps": 10, "output_type": "pt"}
    return model.sample(class_labels=[207, 360], **options).images


@pytest.mark.parametrize("kind", [written, published])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_a_pipeline_makes_the_same_pictures(tmp_path, kind, scale):
    folder = kind(tmp_path / "dit")
    model, theirs = ditzoo.load(f"local-dir:{folder}"), pipeline()
    x, t, labels = torch.randn(2, 4, 8, 8), torch.tensor([3, 770]), [5, 999]
    expected = theirs.transformer(x, timestep=t, class_labels=torch.tensor(labels)).sample
    assert_near(model(x, t.double(), labels), expected, 1e-5)
    assert_near(drawn(model, scale), drawn_by(theirs, scale), 1e-5)


def test_what_a_repository_says_is_in_the_spec(repository, zoo):
    found = resolve(f"local-dir:{repository}", zoo)
    spec = found.spec
    assert (spec.name, spec.card.license) == ("dit", "cc-by-nc-4.0")
    assert spec.prompt.names == tuple(LABELS.values())
    assert (spec.schedule.kind, spec.schedule.spacing.kind, spec.sampler.kind, spec.sampler.clip) == ("linear", "leading", "ddim", None)
    assert (spec.codec.factor, spec.codec.subfolder, spec.codec.scale) == (8, "vae", 0.18215)
    assert (spec.guidance.scale, spec.sampling.steps, spec.backbone.numerics) == (4.0, 50, "diffusers")
    assert found.notes == ("read as layout 'diffusers-dit' by transformer/config.json",)
    assert spec.prompt.parse(["kind 207"]) == [207]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}, {"schedule": {"kind": "cosine", "prediction": "v"}}),
        (
            {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
            {"schedule": {"kind": "scaled-linear", "beta_end": 0.012}},
        ),
        ({"timestep_spacing": "trailing", "num_train_timesteps": 500}, {"schedule": {"spacing": {"kind": "trailing"}, "train_steps": 500}}),
        ({"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}, {"schedule": {"zero_snr": True, "prediction": "v"}}),
        (
            {"use_karras_sigmas": True},
            {"schedule": {"spacing": {"kind": "karras", "rho": 7.0, "sigma_min": None, "sigma_max": None}}},
        ),
        ({"clip_sample": True, "clip_sample_range": 2.0}, {"sampler": {"kind": "ddim", "clip": 2.0, "keep_eps": True}}),
        ({"_class_name": "DDPMScheduler", "variance_type": "fixed_large"}, {"sampler": {"kind": "ddpm", "variance": "large"}}),
        ({"_class_name": "DDPMScheduler", "variance_type": "learned_range"}, {"sampler": {"kind": "ddpm", "variance": "learned"}}),
    ],
)
def test_scheduler_configs_become_schedule_and_sampler(copied, zoo, changed, expected):
    change(copied / "scheduler" / "scheduler_config.json", **changed)
    if "_class_name" in changed:
        change(copied / "model_index.json", scheduler=["diffusers", changed["_class_name"]])
    spec = resolve(f"local-dir:{copied}", zoo).spec
    for slot, fields in expected.items():
        found = getattr(spec, slot).model_dump()
        assert {name: found[name] for name in fields} == fields


def test_schedulers_that_change_the_trajectory_draw_as_diffusers_does(copied):
    change(
        copied / "scheduler" / "scheduler_config.json",
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=True,
    )
    from diffusers import DiTPipeline

    theirs = DiTPipeline.from_pretrained(copied, local_files_only=True)
    assert_near(drawn(ditzoo.load(f"local-dir:{copied}"), 4.0), drawn_by(theirs, 4.0), 1e-5)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_the_noise_of_ddpm_is_as_large(copied, variance):
    change(copied / "scheduler" / "scheduler_config.json", _class_name="DDPMScheduler", variance_type=variance)
    change(copied / "model_index.json", scheduler=["diffusers", "DDPMScheduler"])
    from diffusers import DiTPipeline

    theirs = DiTPipeline.from_pretrained(copied, local_files_only=True)
    torch.manual_seed(5)  # DiTPipeline gives its generator to the first noise alone; guided, it would draw for both halves
    expected = drawn_by(theirs, 1.0)
    start = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    options = {"generator": torch.Generator().manual_seed(5), "num_inference_steps": 10, "output_type": "pt"}
    found = ditzoo.load(f"local-dir:{copied}").sample(class_labels=[207, 360], guidance_scale=1.0, latents=start, **options).images
    assert_near(found, expected, 1e-4)


UNLIKE = {
    "another pipeline": (
        "model_index.json",
        {"_class_name": "StableDiffusionPipeline", "transformer": ..., "unet": ["diffusers", "UNet2DConditionModel"]},
        ["is a StableDiffusionPipeline of", "unet UNet2DConditionModel", "none of the installed layouts reads a network of it"],
    ),
    "another network": (
        "transformer/config.json",
        {"norm_type": "ada_norm_single", "caption_channels": 4096},
        ["is not the DiT that ditzoo has", "norm_type='ada_norm_single' (here 'ada_norm_zero')", "caption_channels=4096 (here None)"],
    ),
    "an unknown field": ("transformer/config.json", {"qk_norm": "rms_norm"}, ["unknown field qk_norm='rms_norm'"]),
    "another epsilon": ("transformer/config.json", {"norm_eps": 1e-6}, ["norm_eps=1e-06 (here 1e-05)"]),
    "odd outputs": ("transformer/config.json", {"out_channels": 7}, ["out_channels=7 and in_channels=4"]),
    "another scheduler": (
        "model_index.json",
        {"scheduler": ["diffusers", "LMSDiscreteScheduler"]},
        ["LMSDiscreteScheduler is no sampler here; say which to use: sampler.kind=ddim"],
    ),
    "an unread scheduler": (
        "model_index.json",
        {"scheduler": ["mine", "MyScheduler"]},
        ["no installed plugin reads scheduler 'MyScheduler'; say what stands for it with schedule.kind=KIND"],
    ),
    "a flow": (
        "scheduler/scheduler_config.json",
        {"prediction_type": "flow_prediction"},
        ["no schedule here is that of DDIMScheduler with beta_schedule 'linear', prediction_type 'flow_prediction'"],
    ),
    "zero terminal SNR": (
        "scheduler/scheduler_config.json",
        {"rescale_betas_zero_snr": True},
        ["zero_snr begins in pure noise, where eps tells nothing of the data; set prediction=v"],
    ),
    "an offset": ("scheduler/scheduler_config.json", {"steps_offset": 1}, ["DDIMScheduler with steps_offset=1 is no sampler here"]),
    "per-channel latents": ("vae/config.json", {"latents_mean": [0.0] * 4}, ["latents_mean and latents_std"]),
    "fewer blocks told": (
        "transformer/config.json",
        {"num_layers": 2},
        ["unexpected: transformer_blocks.2.", "The checkpoint looks like backbone.depth=3 (spec: 2)"],
    ),
    "another width told": (
        "transformer/config.json",
        {"attention_head_dim": 32},
        ["of another shape: pos_embed.proj.bias is 64, model has 128", "looks like backbone.width=64 (spec: 128)"],
    ),
}


@pytest.mark.parametrize("case", UNLIKE)
def test_what_no_part_can_express_is_refused_by_name(copied, case):
    file, fields, told = UNLIKE[case]
    change(copied / file, **fields)
    with pytest.raises(DitzooError) as refused:
        ditzoo.load(f"local-dir:{copied}")
    for part in told:
        assert part in str(refused.value)


def test_a_setting_stands_for_what_is_not_read(copied):
    change(copied / "model_index.json", scheduler=["diffusers", "DPMSolverMultistepScheduler"])
    model = ditzoo.load(f"local-dir:{copied}", settings=["sampler.kind=heun"])
    assert (model.spec.sampler.kind, model.spec.schedule.kind) == ("heun", "linear")


def test_a_network_alone_points_to_its_pipeline(repository):
    with pytest.raises(
        DitzooError, match="is a network alone, without schedule; say it with schedule.kind=KIND, or open the whole pipeline"
    ):
        ditzoo.load(f"local-dir:{repository / 'transformer'}")
    answers = ["schedule.kind=linear", "sampler.kind=ddim", "codec.kind=autoencoder-kl"]
    model = ditzoo.load(f"local-dir:{repository / 'transformer'}", settings=answers)
    assert torch.equal(
        model.state_dict()["backbone.head_linear.bias"], ditzoo.load(f"local-dir:{repository}").state_dict()["backbone.head_linear.bias"]
    )
    with pytest.raises(DitzooError, match="is a 'AutoencoderKL', which no installed layout reads, or open the whole pipeline"):
        ditzoo.load(f"local-dir:{repository / 'vae'}")


def test_there_and_back_is_a_pipeline_that_draws_alike(repository, tmp_path, zoo):
    from diffusers import DiTPipeline

    ours = convert(resolve(f"local-dir:{repository}", zoo), tmp_path / "ours", "ditzoo", verify=True)
    back = convert(resolve(f"local-dir:{ours.path}", zoo), tmp_path / "back", "diffusers", verify=True, max_shard_size="300KB")
    assert (ours.judge, back.judge) == ("read back", "diffusers")
    assert back.apart < 1e-5
    assert (tmp_path / "back" / "transformer" / "diffusion_pytorch_model.safetensors.index.json").is_file()
    index = json.loads((tmp_path / "back" / "model_index.json").read_text())
    assert index["id2label"] == LABELS
    theirs = DiTPipeline.from_pretrained(tmp_path / "back", local_files_only=True)
    assert theirs.labels["kind 7"] == 7
    assert_near(drawn_by(theirs, 4.0), drawn_by(pipeline(), 4.0), 1e-5)
    shutil.move(tmp_path / "ours", tmp_path / "elsewhere")  # the codec went with it, so it draws wherever it is
    assert_near(drawn(ditzoo.load(f"local-dir:{tmp_path / 'elsewhere'}"), 4.0), drawn_by(pipeline(), 4.0), 1e-5)


def test_a_load_imports_diffusers_only_to_decode(repository):
    code = (
        f"import sys, ditzoo\nmodel = ditzoo.load('local-dir:{repository}')\n"
        "model.sample(class_labels=[1], num_inference_steps=1, output_type='latent')\n"
        "heavy = {'diffusers', 'transformers', 'accelerate', 'torch._dynamo'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "model.sample(class_labels=[1], num_inference_steps=1)\nassert 'diffusers' in sys.modules"
    )
    import subprocess

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_command_line_converts_and_proves(repository, tmp_path):
    done = run_ditzoo(
        "convert",
        f"local-dir:{repository}",
        tmp_path / "x.pt",
        "--to",
        "original",
        "--set",
        "backbone.numerics=original",
        "--verify",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "path": str(tmp_path / "x.pt"),
        "layout": "original-dit",
        "tensors_equal": 53,
        "apart": 0.0,
        "judge": "read back",
    }
    refused = run_ditzoo("convert", f"local-dir:{repository}", tmp_path / "y.pt", "--to", "original", "--verify")
    assert refused.returncode == 2
    assert "backbone.numerics=diffusers, where it means original" in refused.stderr
    assert not (tmp_path / "y.pt").exists()
