"""The structure of a published Latte read off the keys and shapes of its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ditzoo.errors import LayoutError
from ditzoo.inspecting import SAME_TABLE, depth_of, grid_of, shape_of
from ditzoo.layouts import Data, Inspection
from ditzoo.sizes import SIZES
from ditzoo.specs import shape

if TYPE_CHECKING:
    from torch import Tensor

LABELS = "y_embedder.embedding_table.weight"


def from_original_names(tensors: Mapping[str, Tensor], process: Mapping[str, Data], structure: Data) -> Inspection:
    """Read a checkpoint. `process` are the schedule, sampler and guidance that it means, `structure` what every Latte's backbone has."""
    from ditzoo.layers import sincos_table

    width, channels, side, _ = shape_of(tensors, "x_embedder.proj.weight", 4)
    depth, grid = depth_of(tensors, "blocks"), grid_of(tensors["pos_embed"], "pos_embed", width)
    _, frames, _ = shape_of(tensors, "temp_embed", 3)
    if not float((tensors["temp_embed"].float() - sincos_table((frames,), width)).abs().max()) < SAME_TABLE:
        raise LayoutError(f"temp_embed is not the sine-cosine table of {frames} frames, and this backbone computes its own")
    outputs = shape_of(tensors, "final_layer.linear.weight", 2)[0] // side**2
    if outputs not in (channels, 2 * channels):
        raise LayoutError(f"it puts out {outputs} channels and takes {channels}; this is no Latte, which puts out as many, or twice that")
    size = [frames, *(extent * side for extent in grid)]
    backbone: Data = {
        "kind": "video-dit",
        "width": width,
        "depth": depth,
        "patch": [1, side, side],
        "in_channels": channels,
        "input_size": size,
        "learn_sigma": outputs == 2 * channels,
        "mlp_ratio": shape_of(tensors, "blocks.0.mlp.fc1.weight", 2)[0] / width,
    }
    notes = [f"width {width}, {depth} blocks, read as Latte: {frames} frames of latents of {shape(size[1:])}"]
    left: dict[str, str] = {}
    heads = next((known.heads for known in SIZES.values() if known.width == width), None)
    if heads is None:
        left["backbone.heads"] = f"keys do not tell the number of heads, and width {width} is none of the paper's; say it: backbone.heads=N"
    else:
        backbone["heads"] = heads
        notes.append(f"heads {heads}, as every Latte of width {width} has; keys do not tell (backbone.heads)")
    prompt: Data = {"kind": "none"}
    if LABELS in tensors:
        classes = shape_of(tensors, LABELS, 2)[0] - 1
        prompt = {"kind": "label", "classes": classes}
        notes.append(f"label table of {classes + 1} rows: {classes} classes and the null row, which has to be there")
    parts = {slot: dict(part) for slot, part in process.items()}
    parts |= {"backbone": backbone | structure, "conditioning": {"kind": "adaln-zero"}, "prompt": prompt}
    if outputs == channels:
        parts["sampler"] = {"kind": "ddpm"}
    if channels == 4:
        parts["codec"] = {"kind": "autoencoder-kl"}
        notes.append(
            "4 channels: taken for latents of Stable Diffusion's autoencoder, frame by frame, as the published ones are (codec.kind)"
        )
    else:
        left["codec"] = f"keys do not tell the codec of {channels} channels; say it: codec.kind=pixels, or codec.kind=autoencoder-kl"
    return Inspection(parts, tuple(notes), left)
