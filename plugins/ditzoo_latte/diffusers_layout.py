"""How Latte's weights are laid out in diffusers: blocks within a frame and blocks along time are two lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ditzoo.inspecting import depth_of, shape_of
from ditzoo.layouts import Data, Inspection, Layout, Row, Same, convolution, linear, value_at
from ditzoo.model_spec import ModelSpec
from ditzoo_latte.configs import CONDITIONING, caption, from_config, network, scale_of, to_config
from ditzoo_latte.layouts import NETWORK, side_of, unlike

if TYPE_CHECKING:
    from torch import Tensor

OUTSIDE = {
    "adaln_single.emb.timestep_embedder.linear_1": "backbone.time_embed.fc1",
    "adaln_single.emb.timestep_embedder.linear_2": "backbone.time_embed.fc2",
    "adaln_single.linear": "backbone.conditioning.modulation",
    "caption_projection.linear_1": "prompt.context.fc1",
    "caption_projection.linear_2": "prompt.context.fc2",
    "proj_out": "backbone.head_linear",
}
BLOCK = {
    "attn1.to_q": "attention.q",
    "attn1.to_k": "attention.k",
    "attn1.to_v": "attention.v",
    "attn1.to_out.0": "attention.out",
    "ff.net.0.proj": "mlp.fc1",
    "ff.net.2": "mlp.fc2",
}
CROSS = {"attn2.to_q": "cross.q", "attn2.to_k": "cross.k", "attn2.to_v": "cross.v", "attn2.to_out.0": "cross.out"}
LISTS = (("transformer_blocks", BLOCK | CROSS), ("temporal_transformer_blocks", BLOCK))  # in turn
HEAD = 72  # channels of a head, in the published one


class DiffusersLatte(Layout):
    """diffusers' `LatteTransformer3DModel`, alone or in a `LattePipeline`."""

    name = "diffusers-latte"
    family = "diffusers"
    files = ("transformer/diffusion_pytorch_model",)
    classes = frozenset({"LatteTransformer3DModel"})
    pipeline = "LattePipeline"
    members = ("scheduler", "vae", "text_encoder", "tokenizer")
    marks = (
        "pos_embed.proj.weight",
        "adaln_single.linear.weight",
        "caption_projection.linear_1.weight",
        "transformer_blocks.0.scale_shift_table",
        "transformer_blocks.0.attn2.to_q.weight",
        "temporal_transformer_blocks.0.scale_shift_table",
    )
    means: ClassVar[Mapping[str, object]] = NETWORK | {
        "backbone.mlp_ratio": 4.0,
        "backbone.positions.beyond": "stretch",
        "conditioning.kind": "adaln-single",
        "conditioning.every": 2,
        "conditioning.sizes": False,
        "codec.shift": 0.0,
        "prompt.kind": "transformers-text",
        "prompt.projection": "mlp",
        "prompt.pooling": "none",
        "prompt.length": 120,
        "prompt.lower": True,
        "prompt.masked": True,
        "prompt.layer": -1,
        "guidance.channels": "all",
        "guidance.interval": (0.0, 1.0),
        "sampling.height": None,
        "sampling.width": None,
        "sampling.num_frames": None,
    }

    def rows(self, spec: ModelSpec, own: Mapping[str, Tensor]) -> list[Row]:
        backbone, side = spec.backbone, side_of(spec)
        found = convolution("pos_embed.proj", "backbone.patch_embed", (backbone.width, backbone.in_channels, side, side))
        found.append(Same(("scale_shift_table",), ("backbone.head_norm.table",)))
        for theirs, ours in OUTSIDE.items():
            found += linear(theirs, ours)
        for index in range(backbone.depth):
            stem, names = LISTS[index % 2]
            there, here = f"{stem}.{index // 2}", f"backbone.blocks.{index}"
            found.append(Same((f"{there}.scale_shift_table",), (f"{here}.table",)))
            for theirs, ours in names.items():
                found += linear(f"{there}.{theirs}", f"{here}.{ours}")
        return found

    def refuse(self, spec: ModelSpec) -> str | None:
        if problem := super().refuse(spec) or unlike(spec):
            return problem
        _, height, width = spec.backbone.input_size
        if height != width:
            return f"diffusers' Latte is trained square, and backbone.input_size is {height}x{width} a frame"
        scale = value_at(spec, "backbone.positions.interpolation_scale")
        if scale != scale_of(height):
            due = f"diffusers divides positions by {scale_of(height):g} at {height}x{width}"
            return f"{due}, and backbone.positions.interpolation_scale={scale}"
        return None

    def inspect(self, tensors: Mapping[str, Tensor]) -> Inspection:
        width, channels, side, _ = shape_of(tensors, "pos_embed.proj.weight", 4)
        depth = 2 * depth_of(tensors, "transformer_blocks")
        outputs = shape_of(tensors, "proj_out.weight", 2)[0] // side**2
        backbone: Data = {"width": width, "depth": depth, "patch": [1, side, side], "in_channels": channels}
        left = {
            "backbone.input_size": "the size is not told, and positions depend on it; say it: backbone.input_size=[16,64,64], and from 128 "
            "backbone.positions.interpolation_scale"
        }
        if width % HEAD:
            left["backbone.heads"] = (
                f"keys do not tell the number of heads, and {HEAD} channels each do not fit width {width}: backbone.heads=N"
            )
        for slot in ("schedule", "sampler", "codec"):
            left[slot] = f"a network alone does not tell the {slot}; open its whole repository, or say {slot}.kind=KIND"
        told = {"learn_sigma": outputs == 2 * channels} | ({} if width % HEAD else {"heads": width // HEAD})
        parts: dict[str, Data] = {
            "backbone": backbone | told | network(1.0),
            "conditioning": dict(CONDITIONING),
            "prompt": caption(shape_of(tensors, "caption_projection.linear_1.weight", 2)[1]),
        }
        return Inspection(parts, (f"width {width}, {depth} blocks, read as Latte",), left)

    def read_config(self, config: Data) -> dict[str, Data]:
        return from_config(config)

    def write_config(self, spec: ModelSpec) -> Data:
        return to_config(spec)

    def their_network(self, spec: ModelSpec) -> Any:
        if any(value_at(spec, path) != meant for path, meant in self.means.items() if path.startswith(("backbone.", "conditioning."))):
            return None
        import torch
        from diffusers import LatteTransformer3DModel

        with torch.random.fork_rng(devices=[]):
            return LatteTransformer3DModel(**{name: value for name, value in to_config(spec).items() if not name.startswith("_")})

    def defaults(self) -> dict[str, Data]:
        return {"guidance": {"scale": 7.5}, "sampling": {"steps": 50}}
