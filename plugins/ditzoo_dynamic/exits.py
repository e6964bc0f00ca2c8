"""Exits that any backbone can be given: its own head behind an offset an exit, or a head of its own for each."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ditzoo.errors import SpecError
from ditzoo.interfaces import Backbone, Exits, Stream


class OffsetExits(Exits):
    """The backbone's head for all, with the tokens scaled and shifted channel by channel before it: 2 D numbers an exit.

    As a head begins with a norm over channels, this is what an offset of adaLN's scale and shift does, on any conditioning.
    """

    def __init__(self, at: Sequence[int], width: int) -> None:
        super().__init__()
        self.at = tuple(at)
        self.scale = nn.ParameterDict({str(depth): nn.Parameter(torch.ones(width)) for depth in at})
        self.shift = nn.ParameterDict({str(depth): nn.Parameter(torch.zeros(width)) for depth in at})

    def forward(self, backbone: Backbone, stream: Stream, depth: int) -> Tensor:
        tokens = torch.addcmul(self.shift[str(depth)], stream.tokens, self.scale[str(depth)])
        return backbone.head(replace(stream, tokens=tokens))


class SeparateExits(Exits):
    """A copy of the modules that the backbone's head is made of for each exit."""

    def __init__(self, at: Sequence[int], backbone: Backbone) -> None:
        super().__init__()
        if not backbone.head_modules:
            raise SpecError(f"{type(backbone).__name__} names no modules of its head (head_modules); set exits.kind=offset")
        self.at = tuple(at)
        self.heads = nn.ModuleDict(
            {
                str(depth): nn.ModuleDict({name: copy.deepcopy(backbone.get_submodule(name)) for name in backbone.head_modules})
                for depth in at
            }
        )

    def forward(self, backbone: Backbone, stream: Stream, depth: int) -> Tensor:
        own = self.heads[str(depth)]
        assert isinstance(own, nn.ModuleDict)
        view = copy.copy(backbone)  # the same parameters, other modules by the head's names
        view._modules = {**backbone._modules, **own}
        return view.head(stream)
