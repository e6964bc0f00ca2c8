"""config.json of diffusers' `SD3Transformer2DModel`, read and written."""

from __future__ import annotations

from ditzoo.errors import LayoutError
from ditzoo.layouts import Data, value_at
from ditzoo.model_spec import ModelSpec
from ditzoo_mmdit.spec import JointAttentionSpec, MMDiTSpec

DEFAULTS: Data = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "num_layers": 18,
    "attention_head_dim": 64,
    "num_attention_heads": 18,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1152,
    "pooled_projection_dim": 2048,
    "out_channels": 16,
    "pos_embed_max_size": 96,
    "dual_attention_layers": (),
    "qk_norm": None,
}
NORMS = {None: None, "rms_norm": "rms"}


def from_config(config: Data) -> dict[str, Data]:
    """Return backbone, conditioning and prompt of a config; raise `LayoutError` naming each field that stands in the way."""
    told = {name: value for name, value in config.items() if not name.startswith("_")}
    wrong = [f"unknown field {name}={told[name]!r}" for name in sorted(told.keys() - DEFAULTS.keys())]
    told = DEFAULTS | told
    width, dual = told["num_attention_heads"] * told["attention_head_dim"], tuple(told["dual_attention_layers"])
    if told["qk_norm"] not in NORMS:
        wrong.append(f"qk_norm={told['qk_norm']!r} (here one of None, 'rms_norm')")
    if dual != tuple(range(len(dual))):
        wrong.append(f"dual_attention_layers={list(dual)} (here the first so many)")
    if told["out_channels"] not in (None, told["in_channels"]):
        wrong.append(f"out_channels={told['out_channels']} (here in_channels={told['in_channels']})")
    if told["caption_projection_dim"] != width:
        wrong.append(f"caption_projection_dim={told['caption_projection_dim']} (here the width, {width})")
    if wrong:
        raise LayoutError(f"config.json of a {config.get('_class_name')} is not the MM-DiT that ditzoo has: {'; '.join(wrong)}")
    return {
        "backbone": {
            "kind": "mmdit",
            "width": width,
            "depth": told["num_layers"],
            "heads": told["num_attention_heads"],
            "patch": told["patch_size"],
            "in_channels": told["in_channels"],
            "input_size": [told["sample_size"]] * 2,
            "table": told["pos_embed_max_size"],
            "qk_norm": NORMS[told["qk_norm"]],
        },
        "conditioning": {"kind": "joint-attention", "dual": len(dual)},
        "prompt": {"kind": "sd3-text", "pooled": told["pooled_projection_dim"], "states": told["joint_attention_dim"]},
    }


def to_config(spec: ModelSpec) -> Data:
    """Return the config of a square MM-DiT; raise `LayoutError` for one that is not."""
    backbone, conditioning = spec.backbone, spec.conditioning
    pooled, states = value_at(spec, "prompt.pooled"), value_at(spec, "prompt.states")
    if not (isinstance(backbone, MMDiTSpec) and isinstance(conditioning, JointAttentionSpec) and pooled and states):
        raise LayoutError("diffusers' SD3Transformer2DModel is a backbone 'mmdit' with joint-attention and sd3-text")
    height, width = backbone.input_size
    if height != width:
        raise LayoutError(f"diffusers' SD3 is trained square, and backbone.input_size is {height}x{width}")
    return {
        "_class_name": "SD3Transformer2DModel",
        "sample_size": height,
        "patch_size": backbone.patch,
        "in_channels": backbone.in_channels,
        "num_layers": backbone.depth,
        "attention_head_dim": backbone.width // backbone.heads,
        "num_attention_heads": backbone.heads,
        "joint_attention_dim": states,
        "caption_projection_dim": backbone.width,
        "pooled_projection_dim": pooled,
        "out_channels": backbone.in_channels,
        "pos_embed_max_size": backbone.table,
        "dual_attention_layers": list(range(conditioning.dual)),
        "qk_norm": next(theirs for theirs, ours in NORMS.items() if ours == backbone.qk_norm),
    }
