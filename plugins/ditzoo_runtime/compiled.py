"""The runtime of `torch.compile`: one graph for the blocks of a kind.

A block's parameters are inputs of its graph, so blocks of one kind share it, and so do all depths, steps and batches: sizes of tensors are
symbols. Modulations that a run has computed ahead lie outside of the graph; within it they are computed anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ditzoo.interfaces import Backbone, Runtime, Stream
from ditzoo.views import view


class Compile(Runtime):
    """A view of the backbone whose blocks are compiled; graphs are kept as long as this is."""

    def __init__(self) -> None:
        self._forwards: dict[type[nn.Module], Callable[..., Any]] = {}

    def prepare(self, backbone: Backbone) -> Backbone:
        seen = view(backbone, lambda module: None)
        for block in seen.blocks:
            block.forward = self._compiled(block)
        return seen

    def _compiled(self, block: nn.Module) -> Callable[[Stream], Stream]:
        kind = type(block)
        if kind not in self._forwards:
            self._forwards[kind] = torch.compile(kind.forward, dynamic=True)
        forward = self._forwards[kind]

        def run(stream: Stream) -> Stream:
            after: Stream = forward(block, stream.alone())
            return after.in_run_of(stream)

        return run
