"""The structure of a DiT read off the keys and shapes of a checkpoint, with what was seen and what cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ditzoo.errors import LayoutError
from ditzoo.inspecting import depth_of, grid_of, shape_of
from ditzoo.layouts import Data, Inspection
from ditzoo.sizes import SIZES
from ditzoo.specs import shape

if TYPE_CHECKING:
    from torch import Tensor

CODEC: Data = {"kind": "autoencoder-kl"}  # the 4-channel latents, 8 pixels to a cell, that the published models are trained on


def from_original_names(tensors: Mapping[str, Tensor], process: Mapping[str, Data], unlearned: Data) -> Inspection:
    """Read a checkpoint of the published code. `process` are the schedule, sampler and guidance that its layout means,
    `unlearned` the sampler for a network without a learned variance.
    """
    parts, notes, left = _common(
        tensors,
        "blocks",
        "x_embedder.proj.weight",
        "y_embedder.embedding_table.weight",
        "blocks.0.mlp.fc1.weight",
        "final_layer.linear.weight",
    )
    backbone = parts["backbone"]
    grid = grid_of(tensors["pos_embed"], "pos_embed", backbone["width"])
    backbone |= {"input_size": [extent * backbone["patch"] for extent in grid], "numerics": "original"}
    notes.append(
        f"pos_embed is the table of {shape(grid)} tokens: latents of {shape(backbone['input_size'])}; numerics are the original code's"
    )
    parts |= {slot: dict(part) for slot, part in process.items()}
    if not backbone["learn_sigma"]:
        parts["sampler"] = dict(unlearned)
    if parts["guidance"].get("channels", 0) > backbone["in_channels"]:
        del parts["guidance"]["channels"]
    if backbone["in_channels"] == 4:
        parts["codec"] = dict(CODEC)
        notes.append("4 channels: taken for latents of Stable Diffusion's autoencoder, as the published models are (codec.kind)")
    else:
        left["codec"] = (
            f"keys do not tell the codec of {backbone['in_channels']} channels; say it: codec.kind=pixels, or codec.kind=autoencoder-kl"
        )
    return Inspection(parts, tuple(notes), left)


def from_diffusers_names(tensors: Mapping[str, Tensor]) -> Inspection:
    """Read a lone file of diffusers' network. Its config, which tells heads and size, and its pipeline are not there."""
    embedder = "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"
    parts, notes, left = _common(
        tensors, "transformer_blocks", "pos_embed.proj.weight", embedder, "transformer_blocks.0.ff.net.0.proj.weight", "proj_out_2.weight"
    )
    parts["backbone"]["numerics"] = "diffusers"
    left["backbone.input_size"] = "this layout stores no position table, so the size is not told; say it: backbone.input_size=[32,32]"
    for slot in ("schedule", "sampler", "codec"):
        left[slot] = f"a network alone does not tell the {slot}; open its whole repository, or say {slot}.kind=KIND"
    return Inspection(parts, tuple(notes), left)


def _common(
    tensors: Mapping[str, Tensor], stem: str, patch: str, table: str, hidden: str, head: str
) -> tuple[dict[str, Data], list[str], dict[str, str]]:
    width, channels, side, _ = shape_of(tensors, patch, 4)
    depth = depth_of(tensors, stem)
    classes = shape_of(tensors, table, 2)[0] - 1
    outputs = shape_of(tensors, head, 2)[0] // (side * side)
    backbone: Data = {
        "kind": "dit",
        "width": width,
        "depth": depth,
        "patch": side,
        "in_channels": channels,
        "learn_sigma": outputs == 2 * channels,
        "mlp_ratio": shape_of(tensors, hidden, 2)[0] / width,
    }
    if outputs not in (channels, 2 * channels):
        raise LayoutError(
            f"{head} puts out {outputs} channels and {patch} takes {channels}; this is no DiT, which puts out as many, or twice that"
        )
    notes = [_depth_note(depth, width), f"label table of {classes + 1} rows: {classes} classes and the null row, which has to be there"]
    left: dict[str, str] = {}
    sizes = {name: size for name, size in SIZES.items() if (size.width, size.depth) == (width, depth)} or {
        name: size for name, size in SIZES.items() if size.width == width
    }
    if sizes:
        ((name, size),) = sizes.items()
        backbone["heads"] = size.heads
        notes.append(f"heads {size.heads}, as every DiT-{name} has; keys do not tell (backbone.heads)")
    else:
        left["backbone.heads"] = f"keys do not tell the number of heads, and width {width} is none of the paper's; say it: backbone.heads=N"
    return {"backbone": backbone, "conditioning": {"kind": "adaln-zero"}, "prompt": {"kind": "label", "classes": classes}}, notes, left


def _depth_note(depth: int, width: int) -> str:
    named = next(((name, size) for name, size in SIZES.items() if size.width == width), None)
    if named is None or named[1].depth == depth:
        return f"blocks 0-{depth - 1}: depth {depth}"
    name, size = named
    if depth < size.depth:
        return f"blocks {depth}-{size.depth - 1} absent: depth {depth}, where DiT-{name} has {size.depth}"
    return f"blocks 0-{depth - 1}: depth {depth}, where DiT-{name} has {size.depth}"
