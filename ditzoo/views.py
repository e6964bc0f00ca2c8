"""Views of modules: the same parameters, buffers and hooks under another tree, in which some modules are others."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import chain
from operator import is_
from typing import TypeVar

import torch
from torch import Tensor, nn

from ditzoo.pages import WORTH

SAMPLES = 64  # of a tensor's values, by which a write to it is noticed
FEWER = 16  # of a large one's: where its pages were given back, each brings some in again
Module = TypeVar("Module", bound=nn.Module)
Other = Callable[[nn.Module], type[nn.Module] | None]


def view(module: Module, other: Other) -> Module:
    """Return a view of a module in which every module for which `other` names a class is of that class.

    Such a class derives from the module's own and adds no parameters; it begins with what the module has, children seen as views.
    State dicts of view and module are the same tensors under the same names.
    """
    made: dict[int, nn.Module] = {}

    def seen(one: nn.Module) -> nn.Module:
        if id(one) not in made:
            cls = other(one)
            new = copy.copy(one) if cls is None else cls.__new__(cls)
            if cls is not None:
                new.__dict__.update(one.__dict__)
            made[id(one)] = new
            new.__dict__["_modules"] = {name: None if child is None else seen(child) for name, child in one._modules.items()}
        return made[id(one)]

    found = seen(module)
    assert isinstance(found, type(module))
    return found


@cache
def before(first: type[nn.Module], cls: type[nn.Module]) -> type[nn.Module]:
    """Return a class that is `cls` with the methods of `first` before its own, for `view`: the same one each time."""
    return type(cls.__name__, (first, cls), {})


@dataclass(frozen=True, eq=False)
class Standing:
    """What a module is made of, and how its tensors stand. Objects are kept alive, so none takes the place of another."""

    objects: tuple[object, ...]
    tensors: tuple[tuple[object, ...], ...]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Standing) or len(self.objects) != len(other.objects):
            return False
        return all(map(is_, self.objects, other.objects)) and self.tensors == other.tensors


def standing(module: nn.Module) -> Standing:
    """Return what changes where a module or an attribute of one is replaced, or a parameter is moved, cast or written to.

    What is written past autograd's eyes, through `parameter.data` as adapters are merged, is seen by some of a tensor's values: all
    of a small one, and of a large one those of a write that is not confined to what lies between them.
    """
    objects = tuple(chain.from_iterable((one, *one.__dict__.values()) for one in module.modules()))
    return Standing(objects, tuple(_standing(tensor) for tensor in (*module.parameters(), *module.buffers())))


def _standing(tensor: Tensor) -> tuple[object, ...]:
    written = None if tensor.is_inference() else tensor._version
    return id(tensor), None if tensor.is_meta else tensor.data_ptr(), tensor.dtype, written, _sampled(tensor)


def _sampled(tensor: Tensor) -> bytes | None:
    """Return the bytes of some values, spread over a tensor; None where they are not in the machine's own memory."""
    if tensor.device.type != "cpu" or not tensor.is_contiguous():
        return None
    values = tensor.detach()
    if values.dtype == torch.bfloat16 or values.dtype.itemsize == 1:  # numpy has no such numbers, but whole ones as wide
        values = values.view(torch.int16 if values.dtype == torch.bfloat16 else torch.uint8)
    count = SAMPLES if tensor.nbytes < WORTH else FEWER
    found: bytes = values.numpy().reshape(-1)[:: max(1, tensor.numel() // count)].tobytes()
    return found


def hooked(module: nn.Module) -> bool:
    """Say whether a call of this module or of one inside of it would call a hook."""
    return any(one._forward_hooks or one._forward_pre_hooks for one in module.modules())
