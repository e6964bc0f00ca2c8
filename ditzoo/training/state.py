"""A run's tensors by name, in three groups: weights, averages, and what the optimiser keeps; read and put back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ditzoo.errors import CheckpointError, listed
from ditzoo.training.ema import EMA, own_parameters
from ditzoo.training.sharding import placed

Groups = dict[str, dict[str, Tensor]]
GROUPS = ("model", "ema", "optimizer")


def read_state(trainee: nn.Module, ema: EMA, optimizer: Optimizer) -> Groups:
    """Return the groups; the optimiser's tensors are named NAME.KEY, after their parameter: `blocks.0.mlp.fc1.weight.exp_avg`."""
    kept = {f"{name}.{key}": value for name, p in trainee.named_parameters() for key, value in optimizer.state.get(p, {}).items()}
    return {"model": own_state(trainee), "ema": dict(ema.average), "optimizer": kept}


def own_state(trainee: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that a run makes, by name; what an adapter lies beside is read anew from where the run starts."""
    state, made = trainee.state_dict(), own_parameters(trainee)
    frozen = {name for name, _ in trainee.named_parameters()} - made.keys()
    return {name: tensor for name, tensor in state.items() if name not in frozen}


def expected(trainee: nn.Module, ema: EMA, held: Mapping[str, torch.Size]) -> Groups:
    """Return tensors to read groups into that hold `held`, by GROUP.NAME: those of the optimiser are shared out as their parameter is."""
    parameters = dict(trainee.named_parameters())
    kept: dict[str, Tensor] = {}
    for path, size in held.items():
        group, name = path.split(".", 1)
        if group == "optimizer":
            like = parameters[name.rsplit(".", 1)[0]]
            kept[name] = torch.zeros_like(like.detach()) if size == like.shape else torch.zeros(size)
    return {"model": own_state(trainee), "ema": dict(ema.average), "optimizer": kept}


@torch.no_grad()
def put_state(groups: Groups, trainee: nn.Module, ema: EMA, optimizer: Optimizer, source: str) -> None:
    """Put groups back, whole tensors or shares; raise `CheckpointError` where names or shapes are other than the run's."""
    own = own_state(trainee)
    for held, wanted in ((groups["model"], own), (groups["ema"], ema.average)):
        wrong = [name for name in {*held, *wanted} if name not in held or name not in wanted or held[name].shape != wanted[name].shape]
        if wrong:
            raise CheckpointError(
                f"{source} holds other tensors than this run: {listed(sorted(wrong))}; remove it, or choose another --out"
            )
    for name, tensor in own.items():
        tensor.copy_(placed(groups["model"][name], tensor))
    ema.load(groups["ema"])
    state: dict[int, dict[str, Tensor]] = {}
    trained = ((name, p) for name, p in trainee.named_parameters() if p.requires_grad)
    for index, (name, p) in enumerate(trained):
        kept = {path: value for path, value in groups["optimizer"].items() if path.rsplit(".", 1)[0] == name}
        state[index] = {path.rsplit(".", 1)[1]: placed(value, p) for path, value in kept.items()}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
