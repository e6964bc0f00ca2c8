"""config.json of diffusers' DiT, read and written. What would make it another function than ours is refused by name."""

from __future__ import annotations

from ditzoo.errors import LayoutError
from ditzoo.layouts import Data
from ditzoo_dit.spec import DiTSpec

# Fields that fix the function and that our backbone has one value of. The older `Transformer2DModel` writes some more.
FIXED: dict[str, tuple[object, ...]] = {
    "norm_type": ("ada_norm_zero",),
    "activation_fn": ("gelu-approximate",),
    "attention_bias": (True,),
    "norm_elementwise_affine": (False,),
    "norm_eps": (1e-5,),
    "dropout": (0.0,),
    "cross_attention_dim": (None,),
    "num_vector_embeds": (None,),
    "only_cross_attention": (False,),
    "use_linear_projection": (False,),
    "double_self_attention": (False,),
    "attention_type": ("default",),
    "caption_channels": (None,),
    "interpolation_scale": (None, 1),
    "use_additional_conditions": (None,),
}
REQUIRED = {"norm_type", "activation_fn"}  # diffusers' old defaults of these are no DiT
READ = {
    "num_attention_heads",
    "attention_head_dim",
    "num_layers",
    "in_channels",
    "out_channels",
    "patch_size",
    "sample_size",
    "num_embeds_ada_norm",
}
IDLE = {"norm_num_groups", "upcast_attention"}  # change nothing in this network
DEFAULTS: Data = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "num_layers": 28,
    "in_channels": 4,
    "out_channels": None,
    "patch_size": 2,
    "sample_size": 32,
    "num_embeds_ada_norm": 1000,
}


def from_config(config: Data) -> dict[str, Data]:
    """Return backbone, conditioning and prompt of a config; raise `LayoutError` naming each field that stands in the way."""
    told = {name: value for name, value in config.items() if not name.startswith("_")}
    old = config.get("_class_name") == "Transformer2DModel"
    wrong = [
        f"{name}={told[name]!r} (here {allowed[0]!r})" for name, allowed in FIXED.items() if name in told and told[name] not in allowed
    ]
    wrong += [f"{name} is not told" for name in sorted(REQUIRED - told.keys()) if old]
    wrong += [f"unknown field {name}={told[name]!r}" for name in sorted(told.keys() - READ - IDLE - FIXED.keys())]
    wrong += [f"{name} is null" for name in sorted(READ - {"out_channels"}) if name in told and told[name] is None]
    if wrong:
        raise LayoutError(f"config.json of a {config.get('_class_name')} is not the DiT that ditzoo has: {'; '.join(wrong)}")
    told = DEFAULTS | told
    channels, outputs = told["in_channels"], told["out_channels"] or told["in_channels"]
    if outputs not in (channels, 2 * channels):
        raise LayoutError(
            f"config.json has out_channels={outputs} and in_channels={channels}; a DiT puts out as many channels, or twice that"
        )
    heads = told["num_attention_heads"]
    return {
        "backbone": {
            "kind": "dit",
            "width": heads * told["attention_head_dim"],
            "depth": told["num_layers"],
            "heads": heads,
            "patch": told["patch_size"],
            "in_channels": channels,
            "input_size": [told["sample_size"]] * 2,
            "learn_sigma": outputs == 2 * channels,
            "numerics": "diffusers",
        },
        "conditioning": {"kind": "adaln-zero"},
        "prompt": {"kind": "label", "classes": told["num_embeds_ada_norm"]},
    }


def to_config(spec: DiTSpec, classes: int | None) -> Data:
    """Return the config of a square DiT with diffusers' numerics."""
    return {
        "_class_name": "DiTTransformer2DModel",
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "attention_head_dim": spec.width // spec.heads,
        "dropout": 0.0,
        "in_channels": spec.in_channels,
        "norm_elementwise_affine": False,
        "norm_eps": 1e-5,
        "norm_num_groups": 32,
        "norm_type": "ada_norm_zero",
        "num_attention_heads": spec.heads,
        "num_embeds_ada_norm": classes,
        "num_layers": spec.depth,
        "out_channels": spec.out_channels,
        "patch_size": spec.patch,
        "sample_size": spec.input_size[0],
        "upcast_attention": False,
    }
