"""A tiny Stable Diffusion 3 pipeline of real classes with random weights, as diffusers writes it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from conftest import wake
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def clip_tokenizer(folder: Path) -> CLIPTokenizer:
    """Letters as tokens, with no merges."""
    folder.mkdir(parents=True)
    vocabulary = {
        token: index for index, token in enumerate([*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"])
    }
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


def t5_tokenizer() -> PreTrainedTokenizerFast:
    """Letters as tokens of a unigram model."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in LETTERS)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return T5TokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>", pad_token="<pad>", extra_ids=0)


def clip(width: int, projection: int) -> CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        vocab_size=54, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=projection, max_position_embeddings=77, bos_token_id=52, eos_token_id=53, pad_token_id=1,
    )  # fmt: skip
    return wake(CLIPTextModelWithProjection(config).eval())


def tiny_sd3(folder: Path, *, t5: bool = True) -> StableDiffusion3Pipeline:
    """Write a tiny pipeline into a folder and return it."""
    torch.manual_seed(0)
    network = SD3Transformer2DModel(
        sample_size=8, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=4, joint_attention_dim=40,
        caption_projection_dim=32, pooled_projection_dim=24, pos_embed_max_size=12, qk_norm="rms_norm", dual_attention_layers=(0,),
    )  # fmt: skip
    vae = AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=4, scaling_factor=1.5305, shift_factor=0.0609,
    )  # fmt: skip
    t5_config = T5Config(vocab_size=30, d_model=40, d_kv=8, d_ff=32, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu")
    pipeline = StableDiffusion3Pipeline(
        transformer=wake(network.eval()),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=wake(vae.eval()),
        text_encoder=clip(16, 12),
        tokenizer=clip_tokenizer(folder.parent / f"{folder.name}-words"),
        text_encoder_2=clip(20, 12),
        tokenizer_2=clip_tokenizer(folder.parent / f"{folder.name}-words-2"),
        text_encoder_3=wake(T5EncoderModel(t5_config).eval()) if t5 else None,
        tokenizer_3=t5_tokenizer() if t5 else None,
    )
    pipeline.save_pretrained(folder)
    return pipeline
