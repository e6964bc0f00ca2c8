"""Tiny PixArt networks and pipelines of real classes with random weights, as diffusers writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from conftest import wake
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
)
from sd3_pipeline import t5_tokenizer
from transformers import T5Config, T5EncoderModel

# as the published configs differ: alpha at 512, alpha at 1024 whose sizes are told, sigma at 1024
KINDS: dict[str, dict[str, Any]] = {
    "alpha 512": {"sample_size": 16},
    "alpha 1024": {"sample_size": 128},
    "sigma 1024": {"sample_size": 128, "interpolation_scale": 2, "use_additional_conditions": False},
}


def network(**fields: Any) -> PixArtTransformer2DModel:
    """Return a tiny network whose every parameter is something."""
    shape = {"num_attention_heads": 4, "attention_head_dim": 12, "num_layers": 3, "cross_attention_dim": 48, "caption_channels": 40}
    torch.manual_seed(0)
    return wake(PixArtTransformer2DModel(**(shape | fields)).eval(), 0.1)


def tiny_pixart(folder: Path, kind: str, **fields: Any) -> PixArtAlphaPipeline | PixArtSigmaPipeline:
    """Write a tiny pipeline of a kind into a folder and return it."""
    made = network(**(KINDS[kind] | fields))
    vae = AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=4, scaling_factor=0.13025,
    )  # fmt: skip
    t5 = T5Config(vocab_size=30, d_model=40, d_kv=8, d_ff=32, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu")
    pipeline = (PixArtSigmaPipeline if kind.startswith("sigma") else PixArtAlphaPipeline)(
        transformer=made,
        scheduler=DPMSolverMultistepScheduler(),
        vae=wake(vae.eval()),
        text_encoder=wake(T5EncoderModel(t5).eval()),
        tokenizer=t5_tokenizer(),
    )
    pipeline.save_pretrained(folder)
    return pipeline
