"""The runtime of packed weights."""

from __future__ import annotations

from ditzoo.interfaces import Backbone, Runtime
from ditzoo.views import view
from ditzoo_runtime.packed import PACKED, available


class OneDNN(Runtime):
    """A view of the backbone whose plain layers are packed ones; the backbone itself where they are not to be had."""

    def prepare(self, backbone: Backbone) -> Backbone:
        first = next(backbone.parameters(), None)
        if first is None or not available(first.device, first.dtype):
            return backbone
        return view(backbone, lambda module: PACKED.get(type(module)))

    @property
    def told(self) -> str:
        return "onednn"
