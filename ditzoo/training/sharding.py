"""FSDP2: weights, gradients, moments and averages shared out over the processes, by torch's own `fully_shard`.

accelerate starts the processes and tells the device; it shards on GPUs alone, and torch everywhere.
"""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ditzoo.training.trainee import Trainee


def shard(trainee: Trainee, device: str) -> None:
    """Share out every block by itself, so that one at a time is whole, and then all that is left."""
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    for block in trainee.model.backbone.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(trainee, mesh=mesh)


def is_sharded(module: nn.Module) -> bool:
    return any(isinstance(p, DTensor) for p in module.parameters())


def share(tensor: Tensor) -> Tensor:
    """Return the share of this process, with the same memory; a tensor that is whole is its own share."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Return the whole tensor; every process has to ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def placed(tensor: Tensor, like: Tensor) -> Tensor:
    """Share out a whole tensor as `like` is, where both have the same shape."""
    if isinstance(like, DTensor) and not isinstance(tensor, DTensor) and tensor.shape == like.shape:
        return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
    return tensor
