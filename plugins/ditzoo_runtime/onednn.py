"""The runtimes of fewer operations, with torch's own products and with those on packed weights."""

from __future__ import annotations

from dataclasses import dataclass

from ditzoo.interfaces import Backbone, Runtime
from ditzoo_runtime.fused import Way, available, fused


@dataclass(frozen=True)
class FewerOperations(Runtime):
    """A view of the backbone with fused layers; the backbone itself where that is no CPU's, or packed products are not to be had."""

    way: Way

    def prepare(self, backbone: Backbone) -> Backbone:
        first = next(backbone.parameters(), None)
        if first is None or first.device.type != "cpu":
            return backbone
        if self.way.packed and not available(first.device, first.dtype):
            return backbone
        return fused(backbone, self.way)

    @property
    def told(self) -> str:
        said = "fused" if not self.way.packed else "onednn, gelu within" if self.way.gelu_within else "onednn"
        return f"{said}, scores" if self.way.scores else said
