"""How PixArt's weights are laid out in diffusers: each table pairs names there with names here; `{i}` is the block."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ditzoo.layouts import Data, Inspection, Layout, Row, Same, convolution, expanded, value_at
from ditzoo.model_spec import ModelSpec
from ditzoo_pixart.configs import LARGE, caption, from_config, to_config

if TYPE_CHECKING:
    from torch import Tensor

LINEAR = {
    "adaln_single.emb.timestep_embedder.linear_1": "backbone.time_embed.fc1",
    "adaln_single.emb.timestep_embedder.linear_2": "backbone.time_embed.fc2",
    "adaln_single.linear": "backbone.conditioning.modulation",
    "caption_projection.linear_1": "prompt.context.fc1",
    "caption_projection.linear_2": "prompt.context.fc2",
    "transformer_blocks.{i}.attn1.to_q": "backbone.blocks.{i}.attention.q",
    "transformer_blocks.{i}.attn1.to_k": "backbone.blocks.{i}.attention.k",
    "transformer_blocks.{i}.attn1.to_v": "backbone.blocks.{i}.attention.v",
    "transformer_blocks.{i}.attn1.to_out.0": "backbone.blocks.{i}.attention.out",
    "transformer_blocks.{i}.attn2.to_q": "backbone.blocks.{i}.cross.q",
    "transformer_blocks.{i}.attn2.to_k": "backbone.blocks.{i}.cross.k",
    "transformer_blocks.{i}.attn2.to_v": "backbone.blocks.{i}.cross.v",
    "transformer_blocks.{i}.attn2.to_out.0": "backbone.blocks.{i}.cross.out",
    "transformer_blocks.{i}.ff.net.0.proj": "backbone.blocks.{i}.mlp.fc1",
    "transformer_blocks.{i}.ff.net.2": "backbone.blocks.{i}.mlp.fc2",
    "proj_out": "backbone.head_linear",
}
SIZES = {
    "adaln_single.emb.resolution_embedder.linear_1": "backbone.conditioning.resolution.fc1",
    "adaln_single.emb.resolution_embedder.linear_2": "backbone.conditioning.resolution.fc2",
    "adaln_single.emb.aspect_ratio_embedder.linear_1": "backbone.conditioning.aspect_ratio.fc1",
    "adaln_single.emb.aspect_ratio_embedder.linear_2": "backbone.conditioning.aspect_ratio.fc2",
}
LENGTHS = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}  # tokens of a text that a pipeline reads
HEAD = 72  # channels of a head, in every published one


class DiffusersPixArt(Layout):
    """diffusers' `PixArtTransformer2DModel`, alone or in a `PixArtAlphaPipeline` or `PixArtSigmaPipeline`; and the `Transformer2DModel`
    that older repositories have.
    """

    name = "diffusers-pixart"
    family = "diffusers"
    files = ("transformer/diffusion_pytorch_model",)
    classes = frozenset({"PixArtTransformer2DModel", "Transformer2DModel"})
    pipeline = "PixArtAlphaPipeline"
    members = ("scheduler", "vae", "text_encoder", "tokenizer")
    marks = (
        "pos_embed.proj.weight",
        "adaln_single.linear.weight",
        "caption_projection.linear_1.weight",
        "transformer_blocks.0.scale_shift_table",
        "transformer_blocks.0.attn2.to_q.weight",
    )
    means: ClassVar[Mapping[str, object]] = {
        "backbone.kind": "dit",
        "backbone.mlp_ratio": 4.0,
        "backbone.numerics": "original",
        "backbone.positions": "interpolate",
        "conditioning.kind": "adaln-single",
        "codec.shift": 0.0,
        "prompt.kind": "transformers-text",
        "prompt.projection": "mlp",
        "prompt.pooling": "none",
        "prompt.lower": True,
        "prompt.masked": True,
        "prompt.layer": -1,
        "guidance.channels": "all",
        "guidance.interval": (0.0, 1.0),
        "sampling.height": None,
        "sampling.width": None,
    }

    def rows(self, spec: ModelSpec, own: Mapping[str, Tensor]) -> list[Row]:
        backbone, patch = spec.backbone, value_at(spec, "backbone.patch")
        assert isinstance(patch, int), "refuse() and the marks come first"
        tables = {f"transformer_blocks.{i}.scale_shift_table": f"backbone.blocks.{i}.table" for i in range(backbone.depth)}
        tables["scale_shift_table"] = "backbone.head_norm.table"
        return [
            *convolution("pos_embed.proj", "backbone.patch_embed", (backbone.width, backbone.in_channels, patch, patch)),
            *(Same((theirs,), (ours,)) for theirs, ours in tables.items()),
            *expanded(LINEAR | (SIZES if value_at(spec, "conditioning.sizes") else {}), backbone.depth),
        ]

    def refuse(self, spec: ModelSpec) -> str | None:
        if problem := super().refuse(spec):
            return problem
        height, width = spec.backbone.input_size
        if height != width:
            return f"diffusers' PixArt is trained square, and backbone.input_size is {height}x{width}"
        if value_at(spec, "prompt.length") not in LENGTHS.values():
            lengths = " or ".join(f"{length} ({pipeline})" for pipeline, length in LENGTHS.items())
            return f"prompt.length={value_at(spec, 'prompt.length')}, and diffusers' pipelines read {lengths} tokens; set one of them"
        told = self.pipeline_of(spec) == self.pipeline and height == LARGE
        if value_at(spec, "conditioning.sizes") and not told:
            return f"diffusers tells sizes in a {self.pipeline} of {LARGE}x{LARGE} latents alone; no native class can express it"
        return None

    def pipeline_of(self, spec: ModelSpec) -> str:
        return next((name for name, length in LENGTHS.items() if length == value_at(spec, "prompt.length")), self.pipeline or "")

    def inspect(self, tensors: Mapping[str, Tensor]) -> Inspection:
        width, channels, patch, _ = tensors["pos_embed.proj.weight"].shape
        depth = 1 + max(int(found[1]) for name in tensors if (found := re.match(r"transformer_blocks\.(\d+)\.", name)))
        outputs = tensors["proj_out.weight"].shape[0] // patch**2
        backbone: Data = {
            "kind": "dit",
            "width": width,
            "depth": depth,
            "patch": patch,
            "in_channels": channels,
            "positions": "interpolate",
        }
        left = {
            "backbone.input_size": "the size is not told, and positions depend on it; say it: backbone.input_size=[64,64], and above 64 "
            "backbone.interpolation_scale"
        }
        if width % HEAD:
            left["backbone.heads"] = (
                f"keys do not tell the number of heads, and {HEAD} channels each do not fit width {width}: backbone.heads=N"
            )
        for slot in ("schedule", "sampler", "codec"):
            left[slot] = f"a network alone does not tell the {slot}; open its whole repository, or say {slot}.kind=KIND"
        parts: dict[str, Data] = {
            "backbone": backbone | {"learn_sigma": outputs == 2 * channels} | ({} if width % HEAD else {"heads": width // HEAD}),
            "conditioning": {"kind": "adaln-single", "sizes": next(iter(SIZES)) + ".weight" in tensors},
            "prompt": caption(int(tensors["caption_projection.linear_1.weight"].shape[1])),
        }
        return Inspection(parts, (f"width {width}, {depth} blocks, read as PixArt",), left)

    def reads(self, config: Data) -> bool:
        return config.get("norm_type", "ada_norm_single") == "ada_norm_single"

    def read_config(self, config: Data) -> dict[str, Data]:
        return from_config(config)

    def read_index(self, index: Data, parts: Mapping[str, Data]) -> dict[str, Data]:
        told: dict[str, Data] = {"prompt": {"length": LENGTHS.get(index["_class_name"], LENGTHS[str(self.pipeline)])}}
        if parts["conditioning"]["sizes"] and "codec" in parts:
            told["conditioning"] = {"pixels": parts["backbone"]["patch"] * parts["codec"]["factor"]}
        return told

    def write_config(self, spec: ModelSpec) -> Data:
        return to_config(spec)

    def their_network(self, spec: ModelSpec) -> Any:
        if any(value_at(spec, path) != meant for path, meant in self.means.items() if path.startswith(("backbone.", "conditioning."))):
            return None
        import torch
        from diffusers import PixArtTransformer2DModel

        with torch.random.fork_rng(devices=[]):
            return PixArtTransformer2DModel(**{name: value for name, value in self.write_config(spec).items() if not name.startswith("_")})

    def defaults(self) -> dict[str, Data]:
        return {"guidance": {"scale": 4.5}, "sampling": {"steps": 20}}
