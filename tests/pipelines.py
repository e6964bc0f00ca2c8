"""Pipelines as diffusers writes them, of random weights: today's repository, and one as diffusers 0.12 published DiT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

LABELS = {str(number): f"class {number}, kind {number}" for number in range(1000)}
TINY = {"num_attention_heads": 4, "attention_head_dim": 16, "num_layers": 3, "sample_size": 8}


def network(**shape: Any) -> Any:
    """Return diffusers' DiT with random weights and, as the published one has, equal copies of the embedders in all blocks."""
    from diffusers import DiTTransformer2DModel

    with torch.device("meta"):
        made = DiTTransformer2DModel(out_channels=8, **(TINY | shape))
    made = made.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    pool = torch.randn(1 << 20, generator=generator)  # drawing 700 million numbers takes longer than the test
    with torch.no_grad():
        for number, p in enumerate(made.parameters()):
            at = 8191 * number % (1 << 19)
            repeats = -(-p.numel() // (1 << 19))
            scale = 0.5 * p.shape[-1] ** -0.5 if p.dim() > 1 else 0.1
            p.copy_(pool[at : at + (1 << 19)].repeat(repeats)[: p.numel()].view(p.shape) * scale)
        first = made.transformer_blocks[0].norm1.emb.state_dict()
        for block in made.transformer_blocks[1:]:
            block.norm1.emb.load_state_dict(first)
    reference = type(made)(**({**made.config, "num_layers": 1}))  # its buffer of positions, which `to_empty` lost
    made.pos_embed.pos_embed = reference.pos_embed.pos_embed
    return made.eval().requires_grad_(False)


def pipeline(**shape: Any) -> Any:
    """Return a DiTPipeline around such a network, with a small autoencoder of the true factor."""
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline

    torch.manual_seed(0)
    ends = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    autoencoder = AutoencoderKL(block_out_channels=[8] * 4, norm_num_groups=4, latent_channels=4, **ends)
    return DiTPipeline(network(**shape), autoencoder.eval(), DDIMScheduler(clip_sample=False))


def written(folder: Path, *, max_shard_size: str = "10GB", **shape: Any) -> Path:
    """Write the repository of today's diffusers, with the label names that its `save_pretrained` leaves out, and a card."""
    made = pipeline(**shape)
    made.save_pretrained(folder, max_shard_size=max_shard_size)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"id2label": LABELS}))
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# DiT\n")
    return folder


def published(folder: Path) -> Path:
    """Write a repository as facebook/DiT-XL-2-256 is: `Transformer2DModel` with the fields of diffusers 0.12, and weights in a pickle."""
    written(folder)
    made = pipeline()
    transformer = folder / "transformer"
    config = json.loads((transformer / "config.json").read_text())
    fields = ("num_attention_heads", "attention_head_dim", "num_layers", "in_channels", "out_channels", "sample_size", "patch_size")
    old = {name: config[name] for name in fields} | {
        "_class_name": "Transformer2DModel",
        "_diffusers_version": "0.12.0.dev0",
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "cross_attention_dim": None,
        "dropout": 0.0,
        "norm_elementwise_affine": False,
        "norm_num_groups": 32,
        "norm_type": "ada_norm_zero",
        "num_embeds_ada_norm": 1000,
        "num_vector_embeds": None,
        "only_cross_attention": False,
        "upcast_attention": False,
        "use_linear_projection": False,
    }
    (transformer / "config.json").write_text(json.dumps(old))
    (transformer / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(made.transformer.state_dict(), transformer / "diffusion_pytorch_model.bin")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"transformer": ["diffusers", "Transformer2DModel"]}))
    vae = json.loads((folder / "vae" / "config.json").read_text())
    del vae["scaling_factor"]
    (folder / "vae" / "config.json").write_text(json.dumps(vae))
    return folder


def change(path: Path, **fields: Any) -> None:
    """Change fields of a JSON file; `...` takes one out."""
    data = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in data.items() if value is not ...}))
