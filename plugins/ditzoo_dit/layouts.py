"""How DiT's weights are laid out elsewhere: in the published code of DiT and SiT, and in diffusers.

Each table pairs names there with names here; `{i}` is the block. DiT and SiT have the same names and are other functions,
which only whoever has the file can tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ditzoo.layouts import Computed, Copies, Data, Inspection, Layout, Row, Same, Stacked, convolution, expanded, value_at
from ditzoo.model_spec import ModelSpec
from ditzoo_dit.configs import from_config, to_config
from ditzoo_dit.inspection import from_diffusers_names, from_original_names
from ditzoo_dit.spec import SIZES, DiTSpec

if TYPE_CHECKING:
    from torch import Tensor

QKV = tuple(f"backbone.blocks.{{i}}.attention.{name}" for name in "qkv")

ORIGINAL = {
    "t_embedder.mlp.0": "backbone.time_embed.fc1",
    "t_embedder.mlp.2": "backbone.time_embed.fc2",
    "blocks.{i}.attn.proj": "backbone.blocks.{i}.attention.out",
    "blocks.{i}.mlp.fc1": "backbone.blocks.{i}.mlp.fc1",
    "blocks.{i}.mlp.fc2": "backbone.blocks.{i}.mlp.fc2",
    "blocks.{i}.adaLN_modulation.1": "backbone.blocks.{i}.modulation",
    "final_layer.adaLN_modulation.1": "backbone.head_norm.modulation",
    "final_layer.linear": "backbone.head_linear",
}
DIFFUSERS = {
    "transformer_blocks.{i}.attn1.to_q": "backbone.blocks.{i}.attention.q",
    "transformer_blocks.{i}.attn1.to_k": "backbone.blocks.{i}.attention.k",
    "transformer_blocks.{i}.attn1.to_v": "backbone.blocks.{i}.attention.v",
    "transformer_blocks.{i}.attn1.to_out.0": "backbone.blocks.{i}.attention.out",
    "transformer_blocks.{i}.ff.net.0.proj": "backbone.blocks.{i}.mlp.fc1",
    "transformer_blocks.{i}.ff.net.2": "backbone.blocks.{i}.mlp.fc2",
    "transformer_blocks.{i}.norm1.linear": "backbone.blocks.{i}.modulation",
    "proj_out_1": "backbone.head_norm.modulation",
    "proj_out_2": "backbone.head_linear",
}
EMBEDDERS = {
    "timestep_embedder.linear_1.weight": "backbone.time_embed.fc1.weight",
    "timestep_embedder.linear_1.bias": "backbone.time_embed.fc1.bias",
    "timestep_embedder.linear_2.weight": "backbone.time_embed.fc2.weight",
    "timestep_embedder.linear_2.bias": "backbone.time_embed.fc2.bias",
    "class_embedder.embedding_table.weight": "prompt.table.weight",
}
SHAPE = {"backbone.kind": "dit", "conditioning.kind": "adaln-zero", "prompt.kind": "label", "backbone.mlp_ratio": 4.0}
DIT = {"backbone.kind": "dit", "backbone.interpolation_scale": 1.0, "conditioning.kind": "adaln-zero", "prompt.kind": "label"}


def patch_rows(theirs: str, spec: DiTSpec) -> list[Row]:
    """Return the rows of the patch embedding."""
    return convolution(theirs, "backbone.patch_embed", (spec.width, spec.in_channels, spec.patch, spec.patch))


class DiffusersDiT(Layout):
    """diffusers' `DiTTransformer2DModel`, and `Transformer2DModel` as diffusers 0.12 wrote it; each block has a copy of the embedders."""

    name = "diffusers-dit"
    family = "diffusers"
    files = ("transformer/diffusion_pytorch_model",)
    classes = frozenset({"DiTTransformer2DModel", "Transformer2DModel"})
    pipeline = "DiTPipeline"
    members = ("scheduler", "vae")
    marks = (
        "pos_embed.proj.weight",
        "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight",
        "proj_out_1.weight",
        "proj_out_2.weight",
    )
    means: ClassVar[Mapping[str, object]] = DIT | {
        "backbone.numerics": "diffusers",
        "backbone.mlp_ratio": 4.0,
        "prompt.classes": 1000,
        "codec.shift": 0.0,
        "guidance.channels": "all",
        "guidance.interval": (0.0, 1.0),
        "sampling.height": None,
        "sampling.width": None,
    }

    def rows(self, spec: ModelSpec, own: Mapping[str, Tensor]) -> list[Row]:
        backbone = _dit(spec)
        copies = [
            Copies(tuple(f"transformer_blocks.{i}.norm1.emb.{theirs}" for i in range(backbone.depth)), (ours,))
            for theirs, ours in EMBEDDERS.items()
        ]
        return [*patch_rows("pos_embed.proj", backbone), *copies, *expanded(DIFFUSERS, backbone.depth)]

    def refuse(self, spec: ModelSpec) -> str | None:
        if problem := super().refuse(spec):
            return problem
        height, width = spec.backbone.input_size
        if height != width:
            return f"diffusers' DiT is square, and backbone.input_size is {height}x{width}; no native class can express it"
        return None if spec.prompt.provides_now >= {"null"} else "diffusers' DiT always has a null class, and prompt.dropout is 0"

    def inspect(self, tensors: Mapping[str, Tensor]) -> Inspection:
        return from_diffusers_names(tensors)

    def reads(self, config: Data) -> bool:
        return config.get("norm_type", "ada_norm_zero") == "ada_norm_zero"

    def read_config(self, config: Data) -> dict[str, Data]:
        return from_config(config)

    def write_config(self, spec: ModelSpec) -> Data:
        return to_config(_dit(spec), spec.prompt.item_classes)

    def their_output(self, folder: Path, x: Tensor, t: Tensor, items: Sequence[Any]) -> Tensor | None:
        import torch
        from diffusers import DiTTransformer2DModel

        network = DiTTransformer2DModel.from_pretrained(folder / "transformer", local_files_only=True).float().eval()
        return network(x, timestep=t, class_labels=torch.as_tensor(items)).sample

    def their_network(self, spec: ModelSpec) -> Any:
        height, width = spec.backbone.input_size if isinstance(spec.backbone, DiTSpec) else (0, 1)
        if height != width or any(value_at(spec, path) != meant for path, meant in SHAPE.items()):
            return None
        import torch
        from diffusers import DiTTransformer2DModel

        config = self.write_config(spec)
        with torch.random.fork_rng(devices=[]):
            return DiTTransformer2DModel(**{name: value for name, value in config.items() if not name.startswith("_")})

    def defaults(self) -> dict[str, Data]:
        return {"guidance": {"scale": 4.0}, "sampling": {"steps": 50}}


class OriginalDiT(Layout):
    """The published DiT's `.pt`: a bare state dict, or a training checkpoint with `ema`."""

    name = "original-dit"
    family = "original"
    marks = (
        "x_embedder.proj.weight",
        "t_embedder.mlp.0.weight",
        "y_embedder.embedding_table.weight",
        "blocks.0.attn.qkv.weight",
        "blocks.0.adaLN_modulation.1.weight",
        "final_layer.linear.weight",
        "pos_embed",
    )
    means: ClassVar[Mapping[str, object]] = DIT | {
        "backbone.numerics": "original",
        "schedule.kind": "linear",
        "schedule.prediction": "eps",
        "schedule.train_steps": 1000,
        "schedule.beta_start": 1e-4,
        "schedule.beta_end": 0.02,
    }
    process: ClassVar[dict[str, Data]] = {
        "schedule": {"kind": "linear", "prediction": "eps"},
        "sampler": {"kind": "ddpm", "variance": "learned"},
        "guidance": {"scale": 4.0, "channels": 3},
        "sampling": {"steps": 250},
    }
    unlearned: ClassVar[Data] = {"kind": "ddpm"}

    def rows(self, spec: ModelSpec, own: Mapping[str, Tensor]) -> list[Row]:
        backbone = _dit(spec)
        stacked: list[Row] = [
            Stacked((f"blocks.{i}.attn.qkv.{leaf}",), tuple(f"{name.format(i=i)}.{leaf}" for name in QKV))
            for i in range(backbone.depth)
            for leaf in ("weight", "bias")
        ]
        return [
            *patch_rows("x_embedder.proj", backbone),
            Computed(("pos_embed",), partial(_positions, backbone)),
            Same(("y_embedder.embedding_table.weight",), ("prompt.table.weight",)),
            *stacked,
            *expanded(ORIGINAL, backbone.depth),
        ]

    def refuse(self, spec: ModelSpec) -> str | None:
        if problem := super().refuse(spec):
            return problem
        backbone = _dit(spec)
        named = [size for size in SIZES.values() if (size.width, size.depth) == (backbone.width, backbone.depth)]
        if named and named[0].heads != backbone.heads:
            read = f"width {backbone.width} with depth {backbone.depth} is read as {named[0].heads} heads"
            return f"its keys do not tell heads: {read}, and this model has {backbone.heads}"
        return None if spec.prompt.provides_now >= {"null"} else "its label table always has a null row, and prompt.dropout is 0"

    def inspect(self, tensors: Mapping[str, Tensor]) -> Inspection:
        return from_original_names(tensors, self.process, self.unlearned)


class OriginalSiT(OriginalDiT):
    """The published SiT's `.pt`: DiT's names; time runs from noise at 0 to data at 1, the output is data - noise."""

    name = "original-sit"
    means: ClassVar[Mapping[str, object]] = DIT | {
        "backbone.numerics": "original",
        "schedule.kind": "flow",
        "schedule.prediction": "velocity-to-data",
        "schedule.time_scale": 1.0,
        "schedule.time_reversed": True,
    }
    process: ClassVar[dict[str, Data]] = {
        "schedule": {"kind": "flow", "prediction": "velocity-to-data", "time_scale": 1.0, "time_reversed": True},
        "sampler": {"kind": "heun"},
        "guidance": {"scale": 4.0, "channels": 3},
        "sampling": {"steps": 50},
    }
    unlearned: ClassVar[Data] = {"kind": "heun"}


def _dit(spec: ModelSpec) -> DiTSpec:
    assert isinstance(spec.backbone, DiTSpec), "refuse() and the marks come first"
    return spec.backbone


def _positions(spec: DiTSpec) -> Tensor:
    from ditzoo.layers import sincos_table

    return sincos_table(spec.grid, spec.width)[None]
