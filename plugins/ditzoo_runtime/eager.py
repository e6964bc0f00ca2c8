"""The runtime that prepares nothing."""

from __future__ import annotations

from ditzoo.interfaces import Backbone, Runtime


class Eager(Runtime):
    """Torch's own operations on the modules as they are."""

    def prepare(self, backbone: Backbone) -> Backbone:
        return backbone
