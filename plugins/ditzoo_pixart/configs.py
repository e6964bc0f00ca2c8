"""config.json of diffusers' `PixArtTransformer2DModel`, and of the `Transformer2DModel` that it was, read and written."""

from __future__ import annotations

from ditzoo.errors import LayoutError
from ditzoo.layouts import Data, value_at
from ditzoo.model_spec import ModelSpec

# Fields that fix the function and that we have one value of. The older `Transformer2DModel` writes some more.
FIXED: dict[str, tuple[object, ...]] = {
    "norm_type": ("ada_norm_single",),
    "activation_fn": ("gelu-approximate",),
    "attention_bias": (True,),
    "norm_elementwise_affine": (False,),
    "norm_eps": (1e-6,),
    "dropout": (0.0,),
    "num_vector_embeds": (None,),
    "only_cross_attention": (False,),
    "use_linear_projection": (False,),
    "double_self_attention": (False,),
    "attention_type": ("default",),
}
IDLE = {"norm_num_groups", "upcast_attention", "num_embeds_ada_norm"}  # change nothing in this network
DEFAULTS: Data = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 28,
    "cross_attention_dim": 1152,
    "sample_size": 128,
    "patch_size": 2,
    "interpolation_scale": None,
    "use_additional_conditions": None,
    "caption_channels": None,
}
LARGE, SMALL = 128, 64  # latents: at LARGE sizes are told where a config does not say; above SMALL positions are scaled


def from_config(config: Data) -> dict[str, Data]:
    """Return backbone, conditioning and prompt of a config; raise `LayoutError` naming each field that stands in the way."""
    told = {name: value for name, value in config.items() if not name.startswith("_")}
    wrong = [
        f"{name}={told[name]!r} (here {allowed[0]!r})" for name, allowed in FIXED.items() if name in told and told[name] not in allowed
    ]
    wrong += [f"unknown field {name}={told[name]!r}" for name in sorted(told.keys() - DEFAULTS.keys() - IDLE - FIXED.keys())]
    told = DEFAULTS | told
    heads, channels = told["num_attention_heads"], told["in_channels"]
    width, outputs = heads * told["attention_head_dim"], told["out_channels"] or channels
    if told["cross_attention_dim"] != width:
        wrong.append(f"cross_attention_dim={told['cross_attention_dim']} (here the width, {width})")
    if told["caption_channels"] is None:
        wrong.append("caption_channels=None (here the width of the text encoder)")
    if outputs not in (channels, 2 * channels):
        wrong.append(f"out_channels={outputs} (here in_channels={channels}, or twice that)")
    if wrong:
        raise LayoutError(f"config.json of a {config.get('_class_name')} is not the PixArt that ditzoo has: {'; '.join(wrong)}")
    side, sizes, scale = told["sample_size"], told["use_additional_conditions"], told["interpolation_scale"]
    return {
        "backbone": {
            "kind": "dit",
            "width": width,
            "depth": told["num_layers"],
            "heads": heads,
            "patch": told["patch_size"],
            "in_channels": channels,
            "input_size": [side] * 2,
            "learn_sigma": outputs == 2 * channels,
            "positions": "interpolate",
            "interpolation_scale": float(max(side // SMALL, 1) if scale is None else scale),
        },
        "conditioning": {"kind": "adaln-single", "sizes": side == LARGE if sizes is None else bool(sizes)},
        "prompt": caption(told["caption_channels"]),
    }


def caption(states: int) -> Data:
    """Return the prompt of PixArt's pipelines: T5's states of a text in lower case, through an MLP."""
    folders = {"encoder": "text_encoder", "tokenizer": "tokenizer"}
    return {"kind": "transformers-text", "states": states, "projection": "mlp", "lower": True} | folders


def to_config(spec: ModelSpec) -> Data:
    """Return the config of a square PixArt, which the layout has looked at."""
    backbone = spec.backbone
    heads = value_at(spec, "backbone.heads")
    assert isinstance(heads, int), "the layout means a backbone 'dit'"
    return {
        "_class_name": "PixArtTransformer2DModel",
        "num_attention_heads": heads,
        "attention_head_dim": backbone.width // heads,
        "in_channels": backbone.in_channels,
        "out_channels": backbone.in_channels * (2 if backbone.learn_sigma else 1),
        "num_layers": backbone.depth,
        "cross_attention_dim": backbone.width,
        "sample_size": backbone.input_size[0],
        "patch_size": value_at(spec, "backbone.patch"),
        "interpolation_scale": value_at(spec, "backbone.interpolation_scale"),
        "use_additional_conditions": value_at(spec, "conditioning.sizes"),
        "caption_channels": value_at(spec, "prompt.states"),
        "norm_type": "ada_norm_single",
        "norm_eps": 1e-6,
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "norm_elementwise_affine": False,
        "dropout": 0.0,
    }
