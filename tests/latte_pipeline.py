"""Tiny Latte networks and pipelines of real classes with random weights, as diffusers writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from conftest import wake
from diffusers import AutoencoderKL, DDIMScheduler, LattePipeline, LatteTransformer3DModel
from sd3_pipeline import t5_tokenizer
from transformers import T5Config, T5EncoderModel

FIXED = {
    "norm_type": "ada_norm_single",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
}


def network(**fields: Any) -> LatteTransformer3DModel:
    """Return a tiny network whose every parameter is something."""
    shape = {"num_attention_heads": 4, "attention_head_dim": 12, "num_layers": 2, "cross_attention_dim": 48, "caption_channels": 40}
    rest = {"in_channels": 4, "out_channels": 8, "patch_size": 2, "sample_size": 16, "video_length": 3}
    torch.manual_seed(0)
    return wake(LatteTransformer3DModel(**(shape | rest | FIXED | fields)).eval(), 0.1)


def tiny_latte(folder: Path) -> LattePipeline:
    """Write a tiny pipeline into a folder and return it."""
    made = network()
    vae = AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=4, scaling_factor=0.18215,
    )  # fmt: skip
    t5 = T5Config(vocab_size=30, d_model=40, d_kv=8, d_ff=32, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu")
    pipeline = LattePipeline(
        transformer=made,
        scheduler=DDIMScheduler(beta_start=1e-4, beta_end=0.02, clip_sample=False),
        vae=wake(vae.eval()),
        text_encoder=wake(T5EncoderModel(t5).eval()),
        tokenizer=t5_tokenizer(),
    )
    pipeline.save_pretrained(folder)
    return pipeline
