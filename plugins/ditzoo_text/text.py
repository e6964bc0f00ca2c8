"""The working prompt of `text-tokens`: a table of words, positions, and layers of attention among the words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ditzoo.interfaces import Cond, Prompt
from ditzoo.layers import Attention, Mlp

if TYPE_CHECKING:
    from ditzoo_text.words import TextTokensSpec


class Layer(nn.Module):
    """x + attention(norm x), then x + mlp(norm x); words that are only padding are not looked at."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.mlp = Attention(width, heads), Mlp(width, 4 * width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.attention(self.norm1(x), mask=mask)
        return x + self.mlp(self.norm2(x))


class TextTokens(Prompt):
    """`tokens` are the words as the layers leave them, `vec` a projection of their mean; no words are the null word, the table's last."""

    def __init__(self, spec: TextTokensSpec, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.table = nn.Embedding(len(spec.vocabulary) + 1, width)
        self.positions = nn.Parameter(torch.randn(spec.length, width) * 0.02)
        nn.init.normal_(self.table.weight, std=0.02)
        self.layers = nn.ModuleList(Layer(width, spec.heads) for _ in range(spec.layers))
        self.norm = nn.LayerNorm(width)
        self.pooled = nn.Linear(width, width)

    def encode(self, items: Sequence[Any]) -> Cond:
        """Encode words by number, as the spec parses them, or texts, as datasets have them."""
        null = (len(self.spec.vocabulary),)
        rows = [(self.spec.words_of(item) if isinstance(item, str) else tuple(item)) or null for item in items]
        longest = max(map(len, rows))
        device = self.table.weight.device
        words = torch.tensor([[*row, *null * (longest - len(row))] for row in rows], device=device)
        counts = torch.tensor([len(row) for row in rows], device=device)
        mask = None if int(counts.min()) == longest else torch.arange(longest, device=device) < counts[:, None]
        x = self.table(words) + self.positions[:longest]
        for layer in self.layers:
            x = layer(x, mask)
        x = self.norm(x)
        counted = x if mask is None else x * mask[..., None]
        return Cond(self.pooled(counted.sum(1) / counts[:, None]), x, mask)

    def null(self, batch: int) -> Cond:
        if not self.spec.dropout:
            raise ValueError("prompt.dropout is 0, so this prompt was never trained without words")
        return self.encode([()] * batch)

    def drop(self, items: Any, uniform: Tensor) -> list[Any]:
        return [() if dropped else item for item, dropped in zip(items, (uniform < self.spec.dropout).tolist(), strict=True)]
