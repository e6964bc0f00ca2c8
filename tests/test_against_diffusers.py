"""diffusers as the oracle: the same random weights and the same noise give the same pictures."""

from __future__ import annotations

import pytest
import torch
from conftest import tiny, wake

from ditzoo.assemble import build
from ditzoo.layouts import to_ours

DEPTH, WIDTH, HEADS, CLASSES = 3, 64, 4, 1000


def theirs() -> torch.nn.Module:
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(0)
    model = DiTTransformer2DModel(
        num_attention_heads=HEADS,
        attention_head_dim=WIDTH // HEADS,
        in_channels=4,
        out_channels=8,
        num_layers=DEPTH,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=CLASSES,
        norm_eps=1e-5,
    )
    wake(model, std=0.1)
    first = model.transformer_blocks[0].norm1.emb  # the published weights hold 28 equal copies of these
    for block in model.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(first.state_dict())
    return model.eval().requires_grad_(False)


def ours(zoo, source, **changes):
    """Build our DiT with diffusers' numerics and put diffusers' weights into it."""
    data = tiny(
        backbone={"width": WIDTH, "depth": DEPTH, "heads": HEADS, "in_channels": 4, "learn_sigma": True, "numerics": "diffusers"},
        prompt={"classes": CLASSES},
        codec={"channels": 4},
        schedule={"spacing": "leading"},
        **changes,
    )
    model, layout = build(zoo.model(data)), zoo.layout("diffusers-dit")
    model.load_state_dict(to_ours(layout.rows(model.spec, model.state_dict()), source.state_dict()))
    return model


def test_the_forward_pass_is_the_same_function(zoo):
    source = theirs()
    model = ours(zoo, source)
    x, t, labels = torch.randn(2, 4, 8, 8), torch.tensor([3, 770]), [5, 999]
    expected = source(x, timestep=t, class_labels=torch.tensor(labels)).sample
    torch.testing.assert_close(model(x, t.double(), labels), expected, atol=1e-5 * float(expected.std()), rtol=1e-5)
    original = build(
        zoo.model(
            {
                **tiny(),
                "backbone": {**model.spec.backbone.model_dump(), "numerics": "original"},
                "prompt": model.spec.prompt,
                "codec": model.spec.codec,
            }
        )
    )
    original.load_state_dict(model.state_dict())
    assert (original(x, t.double(), labels) - expected).abs().max() > 0.1 * expected.std()  # the numerics field is no ornament


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("eta", [0.0])
def test_ddim_over_the_linear_schedule_for_20_steps(zoo, scale, eta):
    from diffusers import DDIMScheduler

    source = theirs()
    model = ours(zoo, source, sampler={"kind": "ddim", "eta": eta}, guidance={"scale": scale})
    scheduler = DDIMScheduler(
        num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False, set_alpha_to_one=True
    )
    scheduler.set_timesteps(20)
    noise, labels = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3)), [207, 360]
    x = noise
    for t in scheduler.timesteps:
        times = torch.full((2,), int(t))
        out = source(x, timestep=times, class_labels=torch.tensor(labels)).sample[:, :4]
        if scale != 1:
            null = source(x, timestep=times, class_labels=torch.tensor([CLASSES] * 2)).sample[:, :4]
            out = null + scale * (out - null)
        x = scheduler.step(out, t, x).prev_sample
    drawn = model.sample(class_labels=labels, num_inference_steps=20, latents=noise, output_type="latent").images
    assert (drawn - x).abs().max() < 1e-4 * max(1.0, float(x.abs().max()))


@pytest.mark.parametrize(
    ("ours_kind", "theirs_kind", "start", "end"),
    [
        ("linear", "linear", 1e-4, 0.02),
        ("scaled-linear", "scaled_linear", 0.00085, 0.012),
        ("cosine", "squaredcos_cap_v2", 1e-4, 0.02),
    ],
)
def test_schedules_have_diffusers_noise_levels(zoo, ours_kind, theirs_kind, start, end):
    from diffusers import DDIMScheduler

    table = DDIMScheduler(beta_start=start, beta_end=end, beta_schedule=theirs_kind).alphas_cumprod
    schedule = zoo.part("schedule", ours_kind).build()
    alpha, sigma = schedule.alpha_sigma(torch.arange(1, 1001) / 1000)
    torch.testing.assert_close((alpha**2).float(), table, rtol=2e-4, atol=1e-7)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(1000, dtype=torch.float64))


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 7, 50, 250, 1000])
def test_spacings_walk_diffusers_steps(zoo, spacing, steps):
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    schedule = zoo.part("schedule", {"kind": "linear", "spacing": spacing}).build()
    walked = schedule.model_time(schedule.times(steps)[:-1]).round().long()
    if steps == 1 and spacing != "trailing":
        assert walked.tolist() in ([999], [0])  # theirs: step 0, where there is no noise left to remove
    else:
        assert walked.tolist() == scheduler.timesteps.tolist()


def test_autoencoder_kl_codes_as_diffusers_does_and_in_slices(zoo, tmp_path):
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    ).eval()
    vae.save_pretrained(tmp_path / "vae")
    spec = zoo.part(
        "codec",
        {"kind": "autoencoder-kl", "source": str(tmp_path), "subfolder": "vae", "factor": 2, "scale": 0.5, "shift": 0.1, "slice_size": 2},
    )
    codec, pixels = spec.build(), torch.rand(5, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        expected = (vae.encode(pixels).latent_dist.mode() - 0.1) * 0.5
        picture = vae.decode(expected / 0.5 + 0.1).sample
    torch.testing.assert_close(codec.encode(pixels), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(codec.decode(expected), picture, atol=1e-5, rtol=1e-5)
    assert spec.latent_size((16, 16)) == (8, 8)
