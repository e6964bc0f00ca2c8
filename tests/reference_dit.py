"""An oracle of our own: the names and the arithmetic of the published DiT (Peebles and Xie 2022) and SiT (Ma et al. 2024) code.

The state dict is the one that code saves, so what a loader makes of it can be held against this module's outputs. It shares
nothing with ditzoo: attention is written out, patches are a convolution, the position table is numpy's. Labels are never dropped.
Shapes: B rows, C latent channels, (H, W) latent, p patch, N tokens, D width.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def position_table(grid: tuple[int, int], width: int) -> Tensor:
    """MAE's table (1, N, D) in float64, then fp32: the column in the first half of D, the row in the second, sines before cosines."""
    rows, columns = np.indices(grid).reshape(2, -1)  # (N,) each
    omega = 10_000.0 ** -(np.arange(width // 4) / (width / 4))
    angles = [np.outer(positions, omega) for positions in (columns, rows)]  # (N, D / 4) each
    return torch.from_numpy(np.hstack([wave(a) for a in angles for wave in (np.sin, np.cos)])).float()[None]


def zeroed(rows: int, columns: int) -> nn.Linear:
    """Make a linear layer that begins at zero, weight (rows, columns)."""
    layer = nn.Linear(columns, rows)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm of x (B, N, D) without weights of its own, then shift and scale by vectors (B, D)."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class ReferenceBlock(nn.Module):
    """adaLN-Zero: attention and MLP, each between its own shift, scale and gate."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), zeroed(6 * width, width))

    def attend(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.attn["qkv"](x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)  # (B, heads, N, D / heads) each
        weights = (q @ k.mT / math.sqrt(d // self.heads)).softmax(dim=-1)
        return self.attn["proj"]((weights @ v).transpose(1, 2).reshape(b, n, d))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(c).chunk(6, dim=1)  # (B, D) each
        x = x + gate_a.unsqueeze(1) * self.attend(modulated(x, shift_a, scale_a))
        hidden = F.gelu(self.mlp["fc1"](modulated(x, shift_m, scale_m)), approximate="tanh")
        return x + gate_m.unsqueeze(1) * self.mlp["fc2"](hidden)


class ReferenceDiT(nn.Module):
    """Noise, and with `learn_sigma` a variance, from latents at timesteps 0 to 999. `input_size` is (H, W) and may be oblong."""

    def __init__(
        self,
        input_size: tuple[int, int],
        patch: int,
        in_channels: int,
        width: int,
        depth: int,
        heads: int,
        classes: int,
        mlp_ratio: float = 4.0,
        learn_sigma: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.input_size, self.patch, self.channels, self.classes = tuple(input_size), patch, in_channels, classes
        self.grid = (input_size[0] // patch, input_size[1] // patch)
        self.pos_embed = nn.Parameter(position_table(self.grid, width), requires_grad=False)
        self.x_embedder = nn.ModuleDict({"proj": nn.Conv2d(in_channels, width, patch, stride=patch)})
        self.t_embedder = nn.ModuleDict({"mlp": nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))})
        self.y_embedder = nn.ModuleDict({"embedding_table": nn.Embedding(classes + (dropout > 0), width)})  # the null row is last
        self.blocks = nn.ModuleList(ReferenceBlock(width, heads, int(width * mlp_ratio)) for _ in range(depth))
        head = zeroed(patch * patch * in_channels * (2 if learn_sigma else 1), width)
        self.final_layer = nn.ModuleDict({"linear": head, "adaLN_modulation": nn.Sequential(nn.SiLU(), zeroed(2 * width, width))})

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Latents (B, C, H, W), times (B,), labels (B,) -> (B, 2C or C, H, W)."""
        assert tuple(x.shape[2:]) == self.input_size, f"made for {self.input_size}, found {tuple(x.shape[2:])}"
        angles = t.float().unsqueeze(1) * torch.exp(-math.log(10_000) * torch.arange(128.0) / 128)  # (B, 128)
        c = self.t_embedder["mlp"](torch.cat([angles.cos(), angles.sin()], dim=1)) + self.y_embedder["embedding_table"](y)  # (B, D)
        tokens = self.x_embedder["proj"](x).flatten(2).mT + self.pos_embed  # (B, N, D)
        for block in self.blocks:
            tokens = block(tokens, c)
        shift, scale = self.final_layer["adaLN_modulation"](c).chunk(2, dim=1)  # (B, D) each
        out = self.final_layer["linear"](modulated(tokens, shift, scale))  # (B, N, p * p * channels), channels fastest
        squares = out.view(len(x), *self.grid, self.patch, self.patch, -1)
        return squares.permute(0, 5, 1, 3, 2, 4).reshape(len(x), -1, *self.input_size)


class ReferenceSiT(ReferenceDiT):
    """The velocity data - noise at times from 0 (noise) to 1 (data); DiT's names, and a learned variance is thrown away."""

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return super().forward(x, t, y)[:, : self.channels]


def woken(module: ReferenceDiT, seed: int = 0, std: float = 0.1) -> ReferenceDiT:
    """Draw every parameter but the position table anew, so that gates and heads that begin at zero do something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if name != "pos_embed":
                p.normal_(std=std, generator=generator)
    return module.eval()


def guided(model: ReferenceDiT, x: Tensor, t: float, y: Tensor, null: int, scale: float, channels: int | None) -> Tensor:
    """Return null + scale * (asked - null), (B, C, H, W), on the first `channels` (None: on all); the others are as asked."""
    times, labels = torch.full((len(x),), float(t)), torch.as_tensor(y)
    asked = model(x, times, labels)[:, : model.channels]
    absent = model(x, times, torch.full_like(labels, null))[:, : model.channels]
    return torch.cat([(absent + scale * (asked - absent))[:, :channels], asked[:, channels or model.channels :]], dim=1)


@torch.no_grad()
def euler_sit(model: ReferenceSiT, noise: Tensor, y: Any, null: int, scale: float, steps: int, channels: int | None = None) -> Tensor:
    """Follow dx/dt = velocity from noise (B, C, H, W) at t = 0 to data at t = 1 in even Euler steps."""
    x = noise
    for i in range(steps):
        x = x + guided(model, x, i / steps, y, null, scale, channels) / steps
    return x


@torch.no_grad()
def ddim_dit(
    model: ReferenceDiT, noise: Tensor, y: Any, null: int, scale: float, timesteps: Sequence[int], channels: int | None = None
) -> Tensor:
    """DDIM (Song et al. 2020) with eta 0 over falling timesteps of the linear schedule; the published code guides 3 channels."""
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    levels = [*(float(alpha_bar[t]) for t in timesteps), 1.0]
    x = noise
    for i, t in enumerate(timesteps):
        eps = guided(model, x, t, y, null, scale, channels)
        x0 = (x - math.sqrt(1 - levels[i]) * eps) / math.sqrt(levels[i])
        x = math.sqrt(levels[i + 1]) * x0 + math.sqrt(1 - levels[i + 1]) * eps
    return x


def train_checkpoint(module: ReferenceDiT, drift: float = 0.0) -> dict[str, Any]:
    """What the published train.py saves; `ema` is 0.9 of `model`, and `opt` an AdamW after one step.

    That code averages the frozen position table too, and rounding in fp32 carries it away from the model's: by up to 1.6e-4 after
    5,000 steps at its decay of 0.9999, and no further. `drift` is how far the largest entry, 1, has gone.
    """
    trained = copy.deepcopy(module)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-4, weight_decay=0)
    for p in trained.parameters():
        p.grad = p.detach().clone() if p.requires_grad else None
    optimizer.step()
    model = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    ema = {name: tensor * (1 - drift if name == "pos_embed" else 0.9) for name, tensor in model.items()}
    args = argparse.Namespace(model="DiT-XL/2", image_size=8 * max(module.input_size), num_classes=module.classes, global_seed=0, vae="ema")
    return {"model": model, "ema": ema, "opt": optimizer.state_dict(), "args": args}
