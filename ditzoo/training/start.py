"""Beginning a run with the weights of a model, and keeping some of them as they are, or all beside an adapter."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

import torch

from ditzoo.assemble import Model, load
from ditzoo.errors import SpecError, TrainingError, listed
from ditzoo.lora import inject, named_layers
from ditzoo.lora_files import names_of
from ditzoo.training.adapter import Adapter
from ditzoo.training.tables import Start
from ditzoo.zoo import Zoo

NAME = "trained"  # of the adapter, while it is


@torch.no_grad()
def begin(model: Model, start: Start) -> None:
    """Put the weights of `start.model` into a model, all but the `fresh` ones, and let only those that are to be trained have gradients.

    A fresh weight stays as it was built even if `start.model` has one of its name: a patch embedding or a prompt of another shape.
    Raises `TrainingError` where another weight is missing, is left over or has another shape, and where a pattern names none.
    """
    own = model.state_dict()
    theirs = {name: tensor for name, tensor in load(start.model).state_dict().items() if not _named(name, start.fresh)}
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
            f"'{start.model}' has {listed(left)}, and '{model.spec.name}' has not; "
            f"take the same parts, as exits, on both sides, or name in start.fresh what begins untrained"
        )
    for name, tensor in theirs.items():
        if tensor.shape != own[name].shape:
            raise TrainingError(
                f"{name} is {tuple(tensor.shape)} in '{start.model}' and {tuple(own[name].shape)} here; "
                f"begin with a model of the same size, or name in start.fresh what begins untrained"
            )
        own[name].copy_(tensor)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_named(name, start.train))


def attach(model: Model, adapter: Adapter, seed: int) -> None:
    """Put a new adapter into a model and let nothing else of it have gradients.

    Raises `TrainingError` where a target is no linear layer, or has no name that it could be saved under.
    """
    try:
        layers = named_layers(model, adapter.targets)
    except SpecError as error:
        raise TrainingError(f"adapter.targets: {error}") from error
    names = names_of(model, model.spec, Zoo.installed())
    if unnamed := sorted(set(layers) - set(names.theirs)):
        raise TrainingError(f"adapter.targets name {listed(unnamed)}, which layout '{names.layout}' cannot save; leave them out")
    ranks = dict.fromkeys(layers, adapter.rank)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject(model, NAME, ranks, dict.fromkeys(layers, adapter.alpha or float(adapter.rank)), train=True, dropout=adapter.dropout)


def _named(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
