"""Beginning a run with the weights of a model, and keeping some of them as they are."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

import torch

from ditzoo.assemble import Model, load
from ditzoo.errors import TrainingError, listed
from ditzoo.training.recipe import Start


@torch.no_grad()
def begin(model: Model, start: Start) -> None:
    """Put the weights of `start.model` into a model, all but the `fresh` ones, and let only those that are to be trained have gradients.

    Raises `TrainingError` where a weight is missing, is left over or has another shape, and where a pattern names none.
    """
    own, theirs = model.state_dict(), load(start.model).state_dict()
    names = [name for name, _ in model.named_parameters()]
    for field in ("fresh", "train"):
        for pattern in getattr(start, field):
            if not any(fnmatchcase(name, pattern) for name in names):
                raise TrainingError(f"start.{field} names '{pattern}', and no parameter of '{model.spec.name}' is called so")
    missing = [name for name in own.keys() - theirs.keys() if not _named(name, start.fresh)]
    if missing:
        raise TrainingError(f"'{start.model}' has no {listed(sorted(missing))}; name what may begin untrained in start.fresh")
    if left := sorted(theirs.keys() - own.keys()):
        raise TrainingError(
            f"'{start.model}' has {listed(left)}, and '{model.spec.name}' has not; take the same parts, as exits, on both sides"
        )
    for name, tensor in theirs.items():
        if tensor.shape != own[name].shape:
            raise TrainingError(
                f"{name} is {tuple(tensor.shape)} in '{start.model}' and {tuple(own[name].shape)} here; begin with a model of the same size"
            )
        own[name].copy_(tensor)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_named(name, start.train))


def _named(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
