"""Specs of attention over space and time: all tokens at once, space and time in turn, or windows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ditzoo.specs import AttentionSpec, Positive

if TYPE_CHECKING:
    from ditzoo.interfaces import Pattern


class JointSpec(AttentionSpec):
    """Every token looks at every token; time and memory grow with the square of their number."""

    kind: Literal["joint"] = "joint"

    def build(self) -> Pattern:
        from ditzoo_video.patterns import Joint

        return Joint()


class FactorisedSpec(AttentionSpec):
    """Blocks in turn look within a frame, and along time at one place of all frames (Latte, Ma et al. 2024, variant 1)."""

    kind: Literal["factorised"] = "factorised"

    def build(self) -> Pattern:
        from ditzoo_video.patterns import Factorised

        return Factorised()


class WindowedSpec(AttentionSpec):
    """Windows of tokens on (time, rows, columns), moved by half a window in every other block (Liu et al. 2022, Video Swin)."""

    kind: Literal["windowed"] = "windowed"
    window: tuple[Positive, Positive, Positive] = (4, 8, 8)

    def build(self) -> Pattern:
        from ditzoo_video.patterns import Windowed

        return Windowed(self.window)
