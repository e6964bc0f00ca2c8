"""Layers that more than one backbone is made of: patches, positions, time, attention, MLP, modulation.

Shapes: B rows, C channels, N tokens, D width, H heads, `*S` latent axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ditzoo.activations import gelu
from ditzoo.interfaces import Stream


def patchify(x: Tensor, patch: Sequence[int]) -> Tensor:
    """Cut (B, C, *S) into tokens (B, N, C * prod(patch)), channels slowest: the order of a convolution's weight."""
    outer, inner = _axes(len(patch))
    pattern = f"b c {' '.join(f'({o} {i})' for o, i in zip(outer, inner, strict=True))} -> b ({' '.join(outer)}) (c {' '.join(inner)})"
    return rearrange(x, pattern, **dict(zip(inner, patch, strict=True)))


def unpatchify(tokens: Tensor, grid: Sequence[int], patch: Sequence[int]) -> Tensor:
    """Lay tokens (B, N, prod(patch) * C), channels fastest as the published DiT has them, out as (B, C, *S)."""
    outer, inner = _axes(len(patch))
    pattern = f"b ({' '.join(outer)}) ({' '.join(inner)} c) -> b c {' '.join(f'({o} {i})' for o, i in zip(outer, inner, strict=True))}"
    return rearrange(tokens, pattern, **dict(zip(outer, grid, strict=True)), **dict(zip(inner, patch, strict=True)))


def _axes(rank: int) -> tuple[list[str], list[str]]:
    return [f"o{axis}" for axis in range(rank)], [f"i{axis}" for axis in range(rank)]


def frequencies(values: Tensor, dim: int, *, max_period: float = 10_000.0, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of values (N,) at `dim // 2` falling frequencies: two tensors (N, dim // 2)
    in the precision of `values`.

    The frequencies are max_period ** -(i / (dim/2 - shift)); shift 0 is Vaswani et al. 2017 and the published DiT,
    shift 1 is what diffusers' DiT computes.
    """
    half = dim // 2
    steps = torch.arange(half, dtype=values.dtype, device=values.device)
    angles = values[:, None] * torch.exp(-math.log(max_period) * steps / (half - shift))  # (N, half)
    return angles.cos(), angles.sin()


def sincos_table(grid: Sequence[int], dim: int, *, scale: Sequence[float] | None = None) -> Tensor:
    """Return the sine-cosine position table (N, dim) of a grid, fp32, computed in float64.

    The width is shared out evenly among the axes, the last axis first (in two dimensions: columns, then rows), each as
    [sin, cos]: the table of MAE (He et al. 2021) and of the published DiT. `scale` multiplies each axis' positions.
    The table is made on the CPU whatever device is the default, so a build on meta has it too.
    """
    if dim % (2 * len(grid)):
        raise ValueError(f"width {dim} is not divisible by {2 * len(grid)}, as a table over {len(grid)} axes needs")
    scale = scale or [1.0] * len(grid)
    axes = [torch.arange(n, dtype=torch.float64, device="cpu") * s for n, s in zip(grid, scale, strict=True)]
    mesh = torch.meshgrid(*axes, indexing="ij")
    parts = []
    for positions in reversed(mesh):
        cos, sin = frequencies(positions.flatten(), dim // len(grid))
        parts += [sin, cos]
    return torch.cat(parts, dim=1).float()


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Scale and shift tokens x (B, N, D) by vectors (B, D), or by what `Stream.over_tokens` makes of them: x * (1 + scale) + shift."""
    if shift.dim() == 2:
        shift, scale = shift[:, None], scale[:, None]
    return torch.addcmul(shift, x, 1 + scale)


def gated(x: Tensor, gate: Tensor, branch: Tensor) -> Tensor:
    """Add to tokens x (B, N, D) a branch (B, N, D) times a gate, (B, D) or over tokens as above: x + gate * branch."""
    return torch.addcmul(x, gate[:, None] if gate.dim() == 2 else gate, branch)


class TimeEmbedding(nn.Module):
    """Model time (B,) to (B, D): cosines and sines, then a two-layer MLP with SiLU (published DiT)."""

    def __init__(self, width: int, *, frequency_dim: int = 256, shift: float = 0.0) -> None:
        super().__init__()
        self.frequency_dim, self.shift = frequency_dim, shift
        self.fc1 = nn.Linear(frequency_dim, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        cos, sin = frequencies(t.float(), self.frequency_dim, shift=self.shift)  # fp32, as the published code trained
        table = torch.cat([cos, sin], dim=1).to(self.fc1.weight.dtype)
        return self.fc2(F.silu(self.fc1(table)))


class Attention(nn.Module):
    """Multi-head self-attention, or cross-attention where `context` is given; q, k, v are separate parameters.

    With `qk_norm="rms"` queries and keys are normed head by head (Esser et al. 2024, section 5.3.2).
    """

    def __init__(self, width: int, heads: int, *, bias: bool = True, qk_norm: Literal["rms"] | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(width, width, bias=bias) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.norm_q, self.norm_k = (nn.RMSNorm(width // heads, eps=1e-6) if qk_norm == "rms" else nn.Identity() for _ in range(2))
        init_linears(self)

    def qkv(self, x: Tensor, source: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """X (B, N, D) -> queries, and keys and values of `source` (B, L, D) or x itself, each (B, H, N or L, D / H)."""
        source = x if source is None else source
        q, k, v = (rearrange(z, "b n (h d) -> b h n d", h=self.heads) for z in (self.q(x), self.k(source), self.v(source)))
        return self.norm_q(q), self.norm_k(k), v

    def forward(self, x: Tensor, stream: Stream | None = None, *, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """X (B, N, D), context (B, L, D), mask (B, N or L) of the keys that count, or (B, N, L) token by token -> (B, N, D)."""
        out = self.look(*self.qkv(x, context), stream, mask)
        return self.out(rearrange(out, "b h n d -> b n (h d)"))

    def look(self, q: Tensor, k: Tensor, v: Tensor, stream: Stream | None, mask: Tensor | None) -> Tensor:
        """Let queries look at keys, (B, H, N or L, D / H) each; a subclass may say who looks at whom."""
        keep = None if mask is None else mask[:, None, None] if mask.dim() == 2 else mask[:, None]
        return attend(q, k, v, keep)


def attend(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None = None) -> Tensor:
    """Return softmax attention (B, H, N, d) of q (B, H, N, d) over k and v (B, H, L, d); `keep` (broadcast to B, H, N, L): who sees whom.

    In training on a CPU in half precision it is computed in fp32: torch's backward pass of it in bf16 takes five times as long there.
    """
    half = q.dtype in (torch.bfloat16, torch.float16) or torch.is_autocast_enabled("cpu")
    if q.device.type != "cpu" or not (half and q.requires_grad and torch.is_grad_enabled()):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=keep)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=keep).to(q.dtype)


class Mlp(nn.Module):
    """Linear, tanh-approximated GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        init_linears(self)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        return self.fc2(gelu(self.fc1(x)))


class ModulatedNorm(nn.Module):
    """A norm shifted and scaled by what modulates the stream, which starts at zero: what adaLN has before the head (published DiT, SD3)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=eps, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        zero_linear(self.modulation)

    def forward(self, tokens: Tensor, stream: Stream) -> Tensor:
        """Tokens (B, N, D) -> (B, N, D)."""
        shift, scale = stream.over_tokens(stream.modulation(self.modulation)).chunk(2, dim=-1)
        return modulate(self.norm(tokens), shift, scale)


def init_linears(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for every linear layer inside, as the published DiT begins."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def zero_linear(layer: nn.Linear) -> None:
    """Set a linear layer to put out zeros."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
