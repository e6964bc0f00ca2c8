"""Codecs of clips: an image autoencoder frame by frame, and diffusers' autoencoders of clips, in slices that change nothing."""

from __future__ import annotations

import pytest
import torch
from conftest import assert_near, wake
from diffusers import (
    AutoencoderKL,
    AutoencoderKLCogVideoX,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLLTXVideo,
    AutoencoderKLTemporalDecoder,
    AutoencoderKLWan,
)

import ditzoo
from ditzoo.assemble import build
from ditzoo.errors import CheckpointError, LayoutError, SamplingError, SpecError
from ditzoo.model_spec import ModelSpec

TINY = {
    "AutoencoderKLCogVideoX": lambda: AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=4, scaling_factor=0.7
    ),
    "AutoencoderKLHunyuanVideo": lambda: AutoencoderKLHunyuanVideo(
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=4, scaling_factor=0.5
    ),
    "AutoencoderKLLTXVideo": lambda: AutoencoderKLLTXVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8), layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1), spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False), patch_size=1, encoder_causal=True, decoder_causal=False,
    ),
    "AutoencoderKLTemporalDecoder": lambda: AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4
    ),
    "AutoencoderKLWan": lambda: AutoencoderKLWan(
        base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.0, 2.0, 0.5, 1.5]
    ),
}  # fmt: skip
FRAMES = {"AutoencoderKLCogVideoX": 9, "AutoencoderKLTemporalDecoder": 6}


def written(folder, name):
    torch.manual_seed(0)
    made = wake(TINY[name]().eval(), 0.05)
    if name == "AutoencoderKLLTXVideo":
        made.latents_mean.copy_(torch.tensor([0.1, -0.2, 0.3, 0.0]))
        made.latents_std.copy_(torch.tensor([1.0, 2.0, 0.5, 1.5]))
    made.save_pretrained(folder / "vae")
    return made


def told(zoo, folder, name):
    """The codec as a pipeline's config tells it."""
    import json

    config = json.loads((folder / "vae" / "config.json").read_text())
    return zoo.components[name].read(name, config, {"source": str(folder), "subfolder": "vae"})["codec"]


def largest(autoencoder, work):
    """The most bytes that any layer puts out while working."""
    seen = [0]
    hooks = [
        m.register_forward_hook(lambda m, i, out: seen.append(out.nbytes if torch.is_tensor(out) else 0)) for m in autoencoder.modules()
    ]
    work()
    for hook in hooks:
        hook.remove()
    return max(seen)


@pytest.mark.parametrize("name", TINY)
def test_an_autoencoder_of_clips_is_what_diffusers_makes_of_them(tmp_path, zoo, name):
    theirs = written(tmp_path, name).double()  # sums of another order would cost up to 2e-5 in fp32
    spec = zoo.part("codec", told(zoo, tmp_path, name))
    frames = FRAMES.get(name, 5)
    size = (frames, 2 * spec.factor, 3 * spec.factor)
    pixels = torch.rand(3, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    codec = spec.build().open()
    latents = codec.encode(pixels)
    assert latents.shape == (3, 4, *spec.latent_size(size))
    assert spec.pixel_size(spec.latent_size(size)) == size
    with torch.no_grad():
        if name == "AutoencoderKLTemporalDecoder":
            due = theirs.encode(pixels.transpose(1, 2).flatten(0, 1)).latent_dist.mode()
            back = theirs.decode(due, num_frames=frames).sample.unflatten(0, (3, frames)).transpose(1, 2)
            due = due.unflatten(0, (3, frames)).transpose(1, 2)
        else:
            due = theirs.encode(pixels).latent_dist.mode()
            back = theirs.decode(due).sample
        if name in ("AutoencoderKLWan", "AutoencoderKLLTXVideo"):
            due = (due - torch.tensor([0.1, -0.2, 0.3, 0.0])[:, None, None, None]) / torch.tensor([1.0, 2.0, 0.5, 1.5])[:, None, None, None]
    assert_near(latents, due * spec.scale, 1e-9)
    assert_near(codec.decode(latents), back, 1e-9)
    one = largest(codec.autoencoder, lambda: codec.decode(latents[:1]))
    assert largest(codec.autoencoder, lambda: codec.decode(latents)) == one  # memory is that of a clip, however many


@pytest.mark.parametrize("name", ["AutoencoderKLCogVideoX", "AutoencoderKLLTXVideo", "AutoencoderKLTemporalDecoder", "AutoencoderKLWan"])
def test_longer_clips_are_decoded_in_slices_of_the_same_memory(tmp_path, zoo, name):
    written(tmp_path, name)
    data = told(zoo, tmp_path, name)
    codec = zoo.part("codec", data | ({} if name.endswith(("X", "Wan")) else {"slice_frames": 8})).build().open()
    sizes = []
    for frames in (5, 13):
        latents = torch.randn(1, 4, frames, 2, 2, generator=torch.Generator().manual_seed(0))
        shown = codec.decode(latents)
        sizes.append(largest(codec.autoencoder, lambda latents=latents: codec.decode(latents)))
        assert shown.shape[2] == codec.spec.pixel_size((frames, 2, 2))[0]
    assert sizes[1] <= sizes[0] * (1.01 if name != "AutoencoderKLTemporalDecoder" else 8 / 5)


def test_large_frames_are_coded_tile_by_tile(tmp_path, zoo):
    torch.manual_seed(0)
    ends = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    sizes = {"block_out_channels": [8, 8], "norm_num_groups": 4, "latent_channels": 4, "sample_size": 16}
    wake(AutoencoderKL(**sizes, **ends).eval()).save_pretrained(tmp_path / "vae")
    data = {"kind": "autoencoder-kl", "source": str(tmp_path / "vae"), "factor": 2}
    whole, tiled = (zoo.part("codec", data | {"tiled": on}).build() for on in (False, True))
    pixels = torch.rand(1, 3, 2, 48, 40, generator=torch.Generator().manual_seed(0))
    latents = whole.encode(pixels)
    assert tiled.encode(pixels).shape == latents.shape
    assert not torch.equal(tiled.decode(latents), whole.decode(latents))
    small = latents[..., :8, :8]
    torch.testing.assert_close(tiled.decode(small), whole.decode(small))
    most = [largest(codec.autoencoder, lambda codec=codec: codec.decode(latents)) for codec in (whole, tiled)]
    assert most[1] < 0.5 * most[0]
    written(tmp_path, "AutoencoderKLWan")
    assert zoo.part("codec", told(zoo, tmp_path, "AutoencoderKLWan") | {"tiled": True}).build().autoencoder.use_tiling
    with pytest.raises(SpecError, match="AutoencoderKLTemporalDecoder knows no tiles; leave out tiled=true"):
        video(zoo, {"kind": "video-autoencoder", "autoencoder": "AutoencoderKLTemporalDecoder", "source": "vae", "tiled": True})


def test_an_image_autoencoder_codes_a_clip_frame_by_frame(tmp_path, zoo):
    torch.manual_seed(0)
    ends = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    theirs = wake(AutoencoderKL(block_out_channels=[8, 8], norm_num_groups=4, latent_channels=4, **ends).eval())
    theirs.save_pretrained(tmp_path / "vae")
    spec = zoo.part("codec", {"kind": "autoencoder-kl", "source": str(tmp_path / "vae"), "factor": 2, "slice_size": 2})
    codec, pixels = spec.build(), torch.rand(2, 3, 5, 8, 12, generator=torch.Generator().manual_seed(0))
    latents = codec.encode(pixels)
    assert latents.shape == (2, 4, *spec.latent_size((5, 8, 12)))
    for frame in range(5):
        assert_near(latents[:, :, frame], codec.encode(pixels[:, :, frame]))
        assert_near(codec.decode(latents)[:, :, frame], codec.decode(latents[:, :, frame]))
    few, many = (largest(codec.autoencoder, lambda n=n: codec.decode(latents[:, :, :n])) for n in (1, 5))
    assert many == few


def video(zoo, codec, **changes):
    data = {
        "name": "clips",
        "backbone": {"kind": "video-dit", "width": 32, "depth": 2, "heads": 2, "in_channels": 4, "input_size": [3, 4, 4]},
        "conditioning": "adaln-zero",
        "prompt": {"kind": "label", "classes": 3},
        "schedule": {"kind": "flow", "prediction": "velocity"},
        "sampler": "euler",
        "codec": codec,
        "sampling": {"steps": 2},
    }
    return zoo.validate(ModelSpec, data | changes, source="clips")


def test_frames_are_counted_before_anything_is_drawn(tmp_path, zoo):
    written(tmp_path, "AutoencoderKLWan")
    model = build(video(zoo, told(zoo, tmp_path, "AutoencoderKLWan")))
    assert model.spec.pixel_size() == (9, 32, 32)
    drawn = model.sample(class_labels=[1], num_frames=5, height=16, width=32, output_type="pt")
    assert drawn.frames.shape == (1, 3, 5, 16, 32)
    with pytest.raises(SamplingError, match="10 frames are not one and a multiple of codec.time_factor=4; nearest: 9, 13"):
        model.sample(class_labels=[1], num_frames=10)
    with pytest.raises(SamplingError, match="20 pixels are not a multiple of codec.factor=8; nearest: 16, 24"):
        model.sample(class_labels=[1], height=20)
    model.save_pretrained(tmp_path / "kept")
    again = ditzoo.load(f"local-dir:{tmp_path / 'kept'}")
    assert torch.equal(again.sample(class_labels=[1], num_frames=5, height=16, width=32, output_type="pt").frames, drawn.frames)


def test_what_an_autoencoder_cannot_do_is_refused(tmp_path, zoo):
    written(tmp_path, "AutoencoderKLWan")
    data = told(zoo, tmp_path, "AutoencoderKLWan")
    with pytest.raises(CheckpointError, match=r"of another form than the codec says; set codec.time_factor=4"):
        zoo.part("codec", data | {"time_factor": 2}).build().open()
    with pytest.raises(SpecError, match="AutoencoderKLWan decodes a clip in slices by itself; leave out slice_frames=16"):
        video(zoo, data | {"slice_frames": 16})
    image = {"kind": "dit", "width": 32, "depth": 2, "heads": 2, "in_channels": 4, "input_size": [4, 4], "learn_sigma": False}
    with pytest.raises(SpecError, match="codes clips .frames, height, width., found"):
        video(zoo, data, backbone=image)
    cog = {"kind": "video-autoencoder", "autoencoder": "AutoencoderKLCogVideoX", "channels": 4, "latent_step": 2, "source": "vae"}
    with pytest.raises(
        SpecError, match="5 frames are 2 latent frames, and AutoencoderKLCogVideoX codes one and a multiple of 2; nearest: 1, 9"
    ):
        video(zoo, cog, sampling={"num_frames": 5})
    with pytest.raises(SpecError, match="slice_frames=10 is not a multiple of 2 . time_factor=16; nearest: 16, 16"):
        video(zoo, cog | {"autoencoder": "AutoencoderKLLTXVideo", "time_factor": 8, "latent_step": 1, "slice_frames": 10})
    with pytest.raises(LayoutError, match="AutoencoderKLWan does not tell 'z_dim'"):
        zoo.components["AutoencoderKLWan"].read("AutoencoderKLWan", {}, {})
