"""Specs of the four conditionings that the DiT paper compares (section 3.2, figure 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ditzoo.specs import ConditioningSpec

if TYPE_CHECKING:
    from ditzoo.interfaces import Conditioning


class AdaLNZeroSpec(ConditioningSpec):
    """Adaptive layer norm whose gates start at zero: every block begins as the identity. The published DiT."""

    kind: Literal["adaln-zero"] = "adaln-zero"
    provides: ClassVar[frozenset[str]] = frozenset({"identity-at-start", "packs"})
    requires: ClassVar[frozenset[str]] = frozenset({"single-stream", "prompt-vec"})

    def build(self, width: int) -> Conditioning:
        from ditzoo_conditioning.adaln import AdaLNZero

        return AdaLNZero()


class AdaLNSpec(ConditioningSpec):
    """Adaptive layer norm: shift and scale from time and prompt, no gates."""

    kind: Literal["adaln"] = "adaln"
    provides: ClassVar[frozenset[str]] = frozenset({"packs"})
    requires: ClassVar[frozenset[str]] = frozenset({"single-stream", "prompt-vec"})

    def build(self, width: int) -> Conditioning:
        from ditzoo_conditioning.adaln import AdaLN

        return AdaLN()


class InContextSpec(ConditioningSpec):
    """Time and prompt join the sequence as tokens and leave before the head."""

    kind: Literal["in-context"] = "in-context"
    provides: ClassVar[frozenset[str]] = frozenset({"packs"})
    requires: ClassVar[frozenset[str]] = frozenset({"single-stream", "prompt-tokens"})

    def build(self, width: int) -> Conditioning:
        from ditzoo_conditioning.tokens import InContext

        return InContext()


class CrossAttentionSpec(ConditioningSpec):
    """A cross-attention layer in every block looks at a sequence of time and prompt tokens."""

    kind: Literal["cross-attention"] = "cross-attention"
    provides: ClassVar[frozenset[str]] = frozenset({"packs"})
    requires: ClassVar[frozenset[str]] = frozenset({"single-stream", "prompt-tokens"})

    def build(self, width: int) -> Conditioning:
        from ditzoo_conditioning.tokens import CrossAttention

        return CrossAttention()
