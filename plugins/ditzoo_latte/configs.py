"""config.json of diffusers' `LatteTransformer3DModel`, read and written; what is another function is refused by name."""

from __future__ import annotations

from ditzoo.errors import LayoutError
from ditzoo.layouts import Data, value_at
from ditzoo.model_spec import ModelSpec

# Fields that fix the function and that we have one value of. What diffusers takes where a config is silent is none of these.
TOLD: dict[str, object] = {
    "norm_type": "ada_norm_single",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
}
# And those that may be left out; the first code of Latte-1 wrote some that diffusers does not read.
SILENT: dict[str, object] = {
    "dropout": 0.0,
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "use_linear_projection": False,
    "double_self_attention": False,
    "attention_type": "default",
}
IDLE = {"norm_num_groups", "upcast_attention", "num_embeds_ada_norm"}  # change nothing in this network
DEFAULTS: Data = {
    "num_attention_heads": 16,
    "attention_head_dim": 88,
    "in_channels": None,
    "out_channels": None,
    "num_layers": 1,
    "cross_attention_dim": None,
    "sample_size": 64,
    "patch_size": None,
    "caption_channels": None,
    "video_length": 16,
}
SMALL = 64  # latents: above it positions are scaled
CONDITIONING: Data = {"kind": "adaln-single", "every": 2}


def scale_of(side: int) -> float:
    """Return what diffusers divides positions by in a network of a size."""
    return float(max(side // SMALL, 1))


def from_config(config: Data) -> dict[str, Data]:
    """Return backbone, conditioning and prompt of a config; raise `LayoutError` naming each field that stands in the way."""
    told = {name: value for name, value in config.items() if not name.startswith("_")}
    wrong = [f"{name}={told.get(name)!r} (here {meant!r})" for name, meant in TOLD.items() if told.get(name) != meant]
    wrong += [f"{name}={told[name]!r} (here {meant!r})" for name, meant in SILENT.items() if name in told and told[name] != meant]
    wrong += [f"unknown field {name}={told[name]!r}" for name in sorted(told.keys() - DEFAULTS.keys() - IDLE - TOLD.keys() - SILENT.keys())]
    told = DEFAULTS | told
    wrong += [f"{name} is not told" for name in ("in_channels", "patch_size", "caption_channels") if told[name] is None]
    heads, channels = told["num_attention_heads"], told["in_channels"]
    width, outputs = heads * told["attention_head_dim"], told["out_channels"] or channels
    if told["cross_attention_dim"] != width:
        wrong.append(f"cross_attention_dim={told['cross_attention_dim']} (here the width, {width})")
    if channels is not None and outputs not in (channels, 2 * channels):
        wrong.append(f"out_channels={outputs} (here in_channels={channels}, or twice that)")
    if wrong:
        raise LayoutError(f"config.json of a {config.get('_class_name')} is not the Latte that ditzoo has: {'; '.join(wrong)}")
    side, patch = told["sample_size"], told["patch_size"]
    backbone = {
        "width": width,
        "depth": 2 * told["num_layers"],
        "heads": heads,
        "patch": [1, patch, patch],
        "in_channels": channels,
        "input_size": [told["video_length"], side, side],
        "learn_sigma": outputs == 2 * channels,
    }
    return {"backbone": backbone | network(scale_of(side)), "conditioning": dict(CONDITIONING), "prompt": caption(told["caption_channels"])}


def network(scale: float) -> Data:
    """Return what the backbone of every Latte in diffusers has."""
    positions = {"kind": "sincos", "joins": 1, "anchored": False, "beyond": "stretch", "interpolation_scale": scale}
    return {"kind": "video-dit", "attention": {"kind": "factorised"}, "positions": positions}


def caption(states: int) -> Data:
    """Return the prompt of Latte's pipeline: T5's states of a text in lower case, through an MLP."""
    folders = {"encoder": "text_encoder", "tokenizer": "tokenizer"}
    return {"kind": "transformers-text", "states": states, "length": 120, "projection": "mlp", "lower": True} | folders


def to_config(spec: ModelSpec) -> Data:
    """Return the config of a square Latte, which the layout has looked at."""
    backbone = spec.backbone
    heads, patch = value_at(spec, "backbone.heads"), value_at(spec, "backbone.patch")
    assert isinstance(heads, int), "the layout means a backbone 'video-dit'"
    assert isinstance(patch, tuple)
    return {
        "_class_name": "LatteTransformer3DModel",
        "num_attention_heads": heads,
        "attention_head_dim": backbone.width // heads,
        "in_channels": backbone.in_channels,
        "out_channels": backbone.in_channels * (2 if backbone.learn_sigma else 1),
        "num_layers": backbone.depth // 2,
        "cross_attention_dim": backbone.width,
        "sample_size": backbone.input_size[1],
        "patch_size": patch[1],
        "caption_channels": value_at(spec, "prompt.states"),
        "video_length": backbone.input_size[0],
        "dropout": 0.0,
    } | TOLD
