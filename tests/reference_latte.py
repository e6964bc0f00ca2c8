"""Latte as its paper and code define it (Ma et al. 2024, variant 1), in plain PyTorch: a reference to hold the zoo's Latte against.

Names are the published checkpoints'. Blocks look within a frame and along time in turn; the table of frames joins before the second.
Shapes: B clips, T frames, N tokens of a frame, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from reference_dit import ReferenceDiT, modulated
from torch import Tensor, nn


def frame_table(frames: int, width: int) -> Tensor:
    """Return sines and cosines of the frames' numbers, (1, T, D)."""
    angles = torch.arange(frames).double().unsqueeze(1) * 10_000 ** (-torch.arange(width // 2).double() / (width // 2))
    return torch.cat([angles.sin(), angles.cos()], dim=1).float().unsqueeze(0)


class ReferenceLatte(ReferenceDiT):
    """`input_size` is (T, H, W). Without `classes` it is asked for nothing. It serves that size alone, as the published code does."""

    def __init__(self, input_size: tuple[int, int, int], classes: int | None, width: int, **shape: Any) -> None:
        super().__init__(input_size[1:], classes=classes or 1, width=width, **shape)
        self.frames, self.temp_embed = input_size[0], nn.Parameter(frame_table(input_size[0], width), requires_grad=False)
        if classes is None:
            del self.y_embedder

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Latents (B, C, T, H, W), times (B,), labels (B,) -> (B, 2C or C, T, H, W)."""
        clips = len(x)
        frames = x.transpose(1, 2).flatten(0, 1)  # (B T, C, H, W)
        angles = t.float().unsqueeze(1) * torch.exp(-torch.log(torch.tensor(10_000.0)) * torch.arange(128.0) / 128)
        c = self.t_embedder["mlp"](torch.cat([angles.cos(), angles.sin()], dim=1))  # (B, D)
        if y is not None:
            c = c + self.y_embedder["embedding_table"](y)
        tokens = self.x_embedder["proj"](frames).flatten(2).mT + self.pos_embed  # (B T, N, D)
        count = tokens.shape[1]
        by_frame, by_place = c.repeat_interleave(self.frames, dim=0), c.repeat_interleave(count, dim=0)
        for index, block in enumerate(self.blocks):
            if index % 2 == 0:
                tokens = block(tokens, by_frame)
                continue
            along = tokens.unflatten(0, (clips, self.frames)).transpose(1, 2).flatten(0, 1)  # (B N, T, D)
            along = block(along + self.temp_embed if index == 1 else along, by_place)
            tokens = along.unflatten(0, (clips, count)).transpose(1, 2).flatten(0, 1)
        shift, scale = self.final_layer["adaLN_modulation"](by_frame).chunk(2, dim=1)
        out = self.final_layer["linear"](modulated(tokens, shift, scale))
        squares = out.view(len(out), *self.grid, self.patch, self.patch, -1)
        pictures = squares.permute(0, 5, 1, 3, 2, 4).reshape(len(out), -1, *self.input_size)
        return pictures.unflatten(0, (clips, self.frames)).transpose(1, 2)


def woken(module: ReferenceLatte) -> ReferenceLatte:
    """Draw every parameter but the two tables anew, so that gates and heads that begin at zero do something."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if name not in ("pos_embed", "temp_embed"):
                p.normal_(std=0.1, generator=generator)
    return module.eval()
