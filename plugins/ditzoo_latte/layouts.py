"""How Latte's weights are laid out in the published code, repository Vchitect/Latte: DiT's names, and a table of frames.

Its blocks look within a frame and along time in turn, which is the backbone `video-dit` with `factorised` attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from ditzoo.layouts import Computed, Data, Inspection, Layout, Row, Same, Stacked, convolution, expanded, value_at
from ditzoo.model_spec import ModelSpec
from ditzoo.sizes import SIZES
from ditzoo.specs import shape
from ditzoo_latte.inspection import from_original_names

if TYPE_CHECKING:
    from torch import Tensor

QKV = tuple(f"backbone.blocks.{{i}}.attention.{name}" for name in "qkv")
LINEAR = {
    "t_embedder.mlp.0": "backbone.time_embed.fc1",
    "t_embedder.mlp.2": "backbone.time_embed.fc2",
    "blocks.{i}.attn.proj": "backbone.blocks.{i}.attention.out",
    "blocks.{i}.mlp.fc1": "backbone.blocks.{i}.mlp.fc1",
    "blocks.{i}.mlp.fc2": "backbone.blocks.{i}.mlp.fc2",
    "blocks.{i}.adaLN_modulation.1": "backbone.blocks.{i}.modulation",
    "final_layer.adaLN_modulation.1": "backbone.head_norm.modulation",
    "final_layer.linear": "backbone.head_linear",
}
LABELS = "y_embedder.embedding_table.weight"
NETWORK: dict[str, object] = {
    "backbone.kind": "video-dit",
    "backbone.attention.kind": "factorised",
    "backbone.positions.kind": "sincos",
    "backbone.positions.joins": 1,
    "backbone.positions.anchored": False,
    "backbone.qk_norm": None,
}


def side_of(spec: ModelSpec) -> int:
    """Return the side of a square patch of one frame; 0 where the model has no such patch."""
    patch = value_at(spec, "backbone.patch")
    return patch[1] if isinstance(patch, tuple) and len(patch) == 3 and patch[0] == 1 and patch[1] == patch[2] else 0


def unlike(spec: ModelSpec) -> str | None:
    """Say why a video backbone is no Latte whatever the layout, or return None if it is one."""
    if not side_of(spec):
        found = value_at(spec, "backbone.patch")
        return f"Latte's patches are squares of one frame, and backbone.patch is {shape(found) if isinstance(found, tuple) else found}"
    if spec.backbone.depth % 2:
        return f"Latte's blocks are pairs, within a frame and along time, and backbone.depth is {spec.backbone.depth}; set an even one"
    return None


class OriginalLatte(Layout):
    """The published class-conditional Latte's `.pt`: a bare state dict, or a training checkpoint with `ema`."""

    name = "original-latte"
    family = "original"
    marks: ClassVar[tuple[str, ...]] = (
        "x_embedder.proj.weight",
        "t_embedder.mlp.0.weight",
        "blocks.0.attn.qkv.weight",
        "blocks.0.adaLN_modulation.1.weight",
        "final_layer.linear.weight",
        "pos_embed",
        "temp_embed",
        LABELS,
    )
    means: ClassVar[Mapping[str, object]] = NETWORK | {
        "backbone.positions.beyond": "interpolate",
        "backbone.positions.interpolation_scale": 1.0,
        "conditioning.kind": "adaln-zero",
        "prompt.kind": "label",
        "schedule.kind": "linear",
        "schedule.prediction": "eps",
        "schedule.train_steps": 1000,
        "schedule.beta_start": 1e-4,
        "schedule.beta_end": 0.02,
    }
    process: ClassVar[dict[str, Data]] = {
        "schedule": {"kind": "linear", "prediction": "eps"},
        "sampler": {"kind": "ddpm", "variance": "learned"},
        "sampling": {"steps": 250},
        "guidance": {"scale": 7.0},
    }

    def rows(self, spec: ModelSpec, own: Mapping[str, Tensor]) -> list[Row]:
        backbone, side = spec.backbone, side_of(spec)
        grid = (backbone.input_size[0], *(extent // side for extent in backbone.input_size[1:]))
        stacked: list[Row] = [
            Stacked((f"blocks.{i}.attn.qkv.{leaf}",), tuple(f"{name.format(i=i)}.{leaf}" for name in QKV))
            for i in range(backbone.depth)
            for leaf in ("weight", "bias")
        ]
        return [
            *convolution("x_embedder.proj", "backbone.patch_embed", (backbone.width, backbone.in_channels, side, side)),
            Computed(("pos_embed",), partial(_table, grid[1:], backbone.width)),
            Computed(("temp_embed",), partial(_table, grid[:1], backbone.width)),
            *self.labels(),
            *stacked,
            *expanded(LINEAR, backbone.depth),
        ]

    def labels(self) -> list[Row]:
        """Return the rows of the prompt."""
        return [Same((LABELS,), ("prompt.table.weight",))]

    def refuse(self, spec: ModelSpec) -> str | None:
        if problem := super().refuse(spec) or unlike(spec):
            return problem
        backbone, heads = spec.backbone, value_at(spec, "backbone.heads")
        named = [size for size in SIZES.values() if (size.width, size.depth) == (backbone.width, backbone.depth)]
        if named and named[0].heads != heads:
            read = f"width {backbone.width} with depth {backbone.depth} is read as {named[0].heads} heads"
            return f"its keys do not tell heads: {read}, and this model has {heads}"
        if spec.prompt.argument and "null" not in spec.prompt.provides_now:
            return "its label table always has a null row, and prompt.dropout is 0"
        return None

    def inspect(self, tensors: Mapping[str, Tensor]) -> Inspection:
        positions = {path.rpartition(".")[2]: value for path, value in self.means.items() if path.startswith("backbone.positions.")}
        return from_original_names(tensors, self.process, {"attention": {"kind": "factorised"}, "positions": positions})


class UnconditionalLatte(OriginalLatte):
    """The same of a Latte that is asked for nothing, as those of faces, skies and tai chi."""

    name = "original-latte-unconditional"
    marks = OriginalLatte.marks[:-1]
    means: ClassVar[Mapping[str, object]] = dict(OriginalLatte.means) | {"prompt.kind": "none"}
    process: ClassVar[dict[str, Data]] = {slot: part for slot, part in OriginalLatte.process.items() if slot != "guidance"}

    def labels(self) -> list[Row]:
        return []


def _table(grid: tuple[int, ...], width: int) -> Tensor:
    from ditzoo.layers import sincos_table

    return sincos_table(grid, width)[None]
