"""How MM-DiT's weights are laid out elsewhere: in diffusers, and in the single files of Stable Diffusion 3.

Each table pairs names there with names here; `{i}` is the block. The last block has less, blocks with a second attention more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ditzoo.layouts import Data, Layout, Row, Same, Stacked, Swapped, convolution, linear, value_at
from ditzoo.model_spec import ModelSpec
from ditzoo_mmdit.configs import from_config, to_config
from ditzoo_mmdit.spec import JointAttentionSpec, MMDiTSpec

if TYPE_CHECKING:
    from torch import Tensor

    from ditzoo.layouts import Inspection

OURS = "backbone.blocks.{i}"
DIFFUSERS = {
    "time_text_embed.timestep_embedder.linear_1": "backbone.time_embed.fc1",
    "time_text_embed.timestep_embedder.linear_2": "backbone.time_embed.fc2",
    "time_text_embed.text_embedder.linear_1": "prompt.pooled.fc1",
    "time_text_embed.text_embedder.linear_2": "prompt.pooled.fc2",
    "context_embedder": "prompt.context",
    "proj_out": "backbone.head_linear",
}
BLOCK = {
    "norm1.linear": "modulation",
    "attn.to_q": "attention.q",
    "attn.to_k": "attention.k",
    "attn.to_v": "attention.v",
    "attn.to_out.0": "attention.out",
    "attn.add_q_proj": "context_attention.q",
    "attn.add_k_proj": "context_attention.k",
    "attn.add_v_proj": "context_attention.v",
    "ff.net.0.proj": "mlp.fc1",
    "ff.net.2": "mlp.fc2",
}
NOT_LAST = {
    "norm1_context.linear": "context_modulation",
    "attn.to_add_out": "context_attention.out",
    "ff_context.net.0.proj": "context_mlp.fc1",
    "ff_context.net.2": "context_mlp.fc2",
}
DUAL = {
    "attn2.to_q": "dual_attention.q",
    "attn2.to_k": "dual_attention.k",
    "attn2.to_v": "dual_attention.v",
    "attn2.to_out.0": "dual_attention.out",
}
NORMS = {
    "attn.norm_q": "attention.norm_q",
    "attn.norm_k": "attention.norm_k",
    "attn.norm_added_q": "context_attention.norm_q",
    "attn.norm_added_k": "context_attention.norm_k",
}
DUAL_NORMS = {"attn2.norm_q": "dual_attention.norm_q", "attn2.norm_k": "dual_attention.norm_k"}
ORIGINAL = {
    "t_embedder.mlp.0": "backbone.time_embed.fc1",
    "t_embedder.mlp.2": "backbone.time_embed.fc2",
    "y_embedder.mlp.0": "prompt.pooled.fc1",
    "y_embedder.mlp.2": "prompt.pooled.fc2",
    "context_embedder": "prompt.context",
    "final_layer.adaLN_modulation.1": "backbone.head_norm.modulation",
    "final_layer.linear": "backbone.head_linear",
}
STREAMS = {"x_block": "", "context_block": "context_"}  # of a block of the single files, and how ours begin


@dataclass(frozen=True)
class Rank(Row):
    """One tensor with an axis of one before the others there: a table for a batch."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]

    def read(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [tensors[0][0]]

    def write(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [tensors[0][None]]


def swapped(theirs: str, ours: str) -> list[Row]:
    """Return the rows of a linear layer that puts out scale and shift there, shift and scale here."""
    return [Swapped((f"{theirs}.{leaf}",), (f"{ours}.{leaf}",)) for leaf in ("weight", "bias")]


def _norm(theirs: str, ours: str) -> Row:
    return Same((f"{theirs}.weight",), (f"{ours}.weight",))


def _patches(theirs: str, spec: MMDiTSpec) -> list[Row]:
    return convolution(theirs, "backbone.patch_embed", (spec.width, spec.in_channels, spec.patch, spec.patch))


def _parts(spec: ModelSpec) -> tuple[MMDiTSpec, int]:
    assert isinstance(spec.backbone, MMDiTSpec), "refuse() and the marks come first"
    assert isinstance(spec.conditioning, JointAttentionSpec)
    return spec.backbone, spec.conditioning.dual


class DiffusersSD3(Layout):
    """diffusers' `SD3Transformer2DModel`, alone or in a `StableDiffusion3Pipeline`."""

    name = "diffusers-sd3"
    family = "diffusers"
    files = ("transformer/diffusion_pytorch_model",)
    classes = frozenset({"SD3Transformer2DModel"})
    pipeline = "StableDiffusion3Pipeline"
    members = ("scheduler", "vae")
    marks = (
        "pos_embed.pos_embed",
        "pos_embed.proj.weight",
        "time_text_embed.text_embedder.linear_1.weight",
        "context_embedder.weight",
        "transformer_blocks.0.attn.add_q_proj.weight",
        "norm_out.linear.weight",
    )
    means: ClassVar[Mapping[str, object]] = {
        "backbone.kind": "mmdit",
        "backbone.mlp_ratio": 4.0,
        "backbone.positions": "sincos",
        "conditioning.kind": "joint-attention",
        "prompt.kind": "sd3-text",
    }

    def members_of(self, spec: ModelSpec) -> tuple[str, ...]:
        return (*self.members, *getattr(spec.prompt, "folders", ()))

    def rows(self, spec: ModelSpec, own: Mapping[str, Tensor]) -> list[Row]:
        backbone, dual = _parts(spec)
        last, rows = backbone.depth - 1, [*_patches("pos_embed.proj", backbone)]
        rows += [Rank(("pos_embed.pos_embed",), ("backbone.position_table",)), *swapped("norm_out.linear", "backbone.head_norm.modulation")]
        rows += [row for theirs, ours in DIFFUSERS.items() for row in linear(theirs, ours)]
        for i in range(backbone.depth):
            there, here = f"transformer_blocks.{i}", OURS.format(i=i)
            layers = BLOCK | (NOT_LAST if i < last else {}) | (DUAL if i < dual else {})
            rows += [row for theirs, ours in layers.items() for row in linear(f"{there}.{theirs}", f"{here}.{ours}")]
            if i == last:
                rows += swapped(f"{there}.norm1_context.linear", f"{here}.context_modulation")
            norms = (NORMS | (DUAL_NORMS if i < dual else {})) if backbone.qk_norm else {}
            rows += [_norm(f"{there}.{theirs}", f"{here}.{ours}") for theirs, ours in norms.items()]
        return rows

    def inspect(self, tensors: Mapping[str, Tensor]) -> Inspection:
        from ditzoo_mmdit.inspection import from_diffusers_names

        return from_diffusers_names(tensors)

    def read_config(self, config: Data) -> dict[str, Data]:
        return from_config(config)

    def write_config(self, spec: ModelSpec) -> Data:
        return to_config(spec)

    def their_network(self, spec: ModelSpec) -> Any:
        height, width = spec.backbone.input_size if isinstance(spec.backbone, MMDiTSpec) else (0, 1)
        if height != width or any(value_at(spec, path) != meant for path, meant in self.means.items()):
            return None
        import torch
        from diffusers import SD3Transformer2DModel

        with torch.random.fork_rng(devices=[]):
            return SD3Transformer2DModel(**{name: value for name, value in self.write_config(spec).items() if not name.startswith("_")})

    def their_output(self, folder: Path, x: Tensor, t: Tensor, items: Sequence[Any]) -> Tensor | None:
        return None  # it is asked by what encoders say, which this folder need not hold

    def defaults(self) -> dict[str, Data]:
        return {"guidance": {"scale": 7.0}, "sampling": {"steps": 28}}


class SingleFileSD3(Layout):
    """The single files of Stable Diffusion 3: `model.diffusion_model.*`, maybe with the autoencoder and encoders beside it."""

    name = "sd3-single-file"
    family = "original"
    prefix = "model.diffusion_model."
    marks = tuple(
        f"model.diffusion_model.{name}"
        for name in ("pos_embed", "x_embedder.proj.weight", "y_embedder.mlp.0.weight", "joint_blocks.0.x_block.attn.qkv.weight")
    )
    means: ClassVar[Mapping[str, object]] = DiffusersSD3.means

    def rows(self, spec: ModelSpec, own: Mapping[str, Tensor]) -> list[Row]:
        backbone, dual = _parts(spec)
        rows: list[Row] = [
            *_patches(f"{self.prefix}x_embedder.proj", backbone),
            Rank((f"{self.prefix}pos_embed",), ("backbone.position_table",)),
        ]
        rows += [row for theirs, ours in ORIGINAL.items() for row in linear(f"{self.prefix}{theirs}", ours)]
        for i in range(backbone.depth):
            for stream, begins in STREAMS.items():
                rows += self._stream(f"{self.prefix}joint_blocks.{i}.{stream}", f"{OURS.format(i=i)}.{begins}", backbone, i, dual)
        return rows

    def _stream(self, there: str, here: str, backbone: MMDiTSpec, i: int, dual: int) -> list[Row]:
        """Return the rows of one stream of a block; that of the prompt ends with its keys in the last one."""
        ends = here.endswith("context_") and i == backbone.depth - 1
        attentions = {"attn": f"{here}attention"} | (
            {"attn2": f"{here}dual_attention"} if i < dual and not here.endswith("context_") else {}
        )
        rows = linear(f"{there}.adaLN_modulation.1", f"{here}modulation")
        for theirs, ours in attentions.items():
            rows += [
                Stacked((f"{there}.{theirs}.qkv.{leaf}",), tuple(f"{ours}.{name}.{leaf}" for name in "qkv")) for leaf in ("weight", "bias")
            ]
            rows += [] if ends else linear(f"{there}.{theirs}.proj", f"{ours}.out")
            if backbone.qk_norm:
                rows += [_norm(f"{there}.{theirs}.ln_{name}", f"{ours}.norm_{name}") for name in "qk"]
        if not ends:
            rows += [row for name in ("fc1", "fc2") for row in linear(f"{there}.mlp.{name}", f"{here}mlp.{name}")]
        return rows

    def inspect(self, tensors: Mapping[str, Tensor]) -> Inspection:
        from ditzoo_mmdit.inspection import from_single_file

        return from_single_file(tensors, self.prefix)
