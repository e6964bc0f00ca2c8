"""The structure of an MM-DiT read off the keys and shapes of a checkpoint, with what was seen and what cannot be."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ditzoo.errors import LayoutError
from ditzoo.layouts import Data, Inspection

if TYPE_CHECKING:
    from torch import Tensor

HEAD = 64  # channels of a head, in every published one
CODEC: Data = {"kind": "autoencoder-kl", "channels": 16, "scale": 1.5305, "shift": 0.0609}  # as the published models' configs state


def from_diffusers_names(tensors: Mapping[str, Tensor]) -> Inspection:
    """Read a lone file of diffusers' network, without its config."""
    return _inspected(
        tensors,
        {
            "patch": "pos_embed.proj.weight",
            "table": "pos_embed.pos_embed",
            "block": r"transformer_blocks\.(\d+)\.",
            "dual": r"transformer_blocks\.(\d+)\.attn2\.to_q\.weight",
            "norm": "transformer_blocks.0.attn.norm_q.weight",
            "pooled": "time_text_embed.text_embedder.linear_1.weight",
            "states": "context_embedder.weight",
        },
    )


def from_single_file(tensors: Mapping[str, Tensor], prefix: str) -> Inspection:
    """Read a single file of the published code."""
    start = re.escape(prefix)
    return _inspected(
        tensors,
        {
            "patch": f"{prefix}x_embedder.proj.weight",
            "table": f"{prefix}pos_embed",
            "block": rf"{start}joint_blocks\.(\d+)\.",
            "dual": rf"{start}joint_blocks\.(\d+)\.x_block\.attn2\.qkv\.weight",
            "norm": f"{prefix}joint_blocks.0.x_block.attn.ln_q.weight",
            "pooled": f"{prefix}y_embedder.mlp.0.weight",
            "states": f"{prefix}context_embedder.weight",
        },
    )


def _inspected(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> Inspection:
    width, channels, patch, _ = tensors[names["patch"]].shape
    side = math.isqrt(tensors[names["table"]].shape[1])
    if side * side != tensors[names["table"]].shape[1]:
        raise LayoutError(f"{names['table']} has {tensors[names['table']].shape[1]} positions, which is no square table")
    depth = 1 + max(int(found[1]) for name in tensors if (found := re.match(names["block"], name)))
    dual = sorted({int(found[1]) for name in tensors if (found := re.fullmatch(names["dual"], name))})
    if dual != list(range(len(dual))):
        raise LayoutError(f"blocks {dual} have a second attention, and here the first so many have")
    normed = names["norm"] in tensors
    head = int(tensors[names["norm"]].shape[0]) if normed else HEAD
    notes = [
        f"width {width}, {depth} blocks, the first {len(dual)} with a second attention, position table {side}x{side}",
        f"heads {width // head}, of {head} channels each"
        + ("" if normed else ", as every published one has; keys do not tell (backbone.heads)"),
    ]
    parts: dict[str, Data] = {
        "backbone": {
            "kind": "mmdit",
            "width": width,
            "depth": depth,
            "heads": width // head,
            "patch": patch,
            "in_channels": channels,
            "table": side,
            "qk_norm": "rms" if normed else None,
        },
        "conditioning": {"kind": "joint-attention", "dual": len(dual)},
        "prompt": {
            "kind": "sd3-text",
            "pooled": int(tensors[names["pooled"]].shape[1]),
            "states": int(tensors[names["states"]].shape[1]),
        },
        "schedule": {"kind": "flow", "shift": 3.0},
        "sampler": {"kind": "euler"},
        "guidance": {"scale": 7.0},
        "sampling": {"steps": 28},
    }
    left: dict[str, str] = {}
    if channels == CODEC["channels"]:
        parts["codec"] = dict(CODEC)
        left["codec.source"] = (
            "a network alone has no autoencoder; say where it is: codec.source=FOLDER or OWNER/REPO (with codec.subfolder=vae)"
        )
    else:
        left["codec"] = f"keys do not tell the codec of {channels} channels; say it: codec.kind=pixels, or codec.kind=autoencoder-kl"
    notes.append("schedule flow with shift 3 and euler, as the published models are sampled; latents of 128x128 (backbone.input_size)")
    return Inspection(parts, tuple(notes), left)
