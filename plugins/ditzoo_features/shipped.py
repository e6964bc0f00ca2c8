"""A small network of ours as a feature network: its weights ship beside it, or are another file of the same network."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from ditzoo.checkpoints import open_file
from ditzoo.errors import CheckpointError, EvaluationError
from ditzoo.interfaces import Features, Seen
from ditzoo.places import file_sha256


class Small(Features):
    """`network` with its weights, frozen, on the CPU; a subclass says what it looks at and what it sees."""

    name: ClassVar[str]
    network_class: ClassVar[type[nn.Module]]
    looks_at: ClassVar[str]

    def __init__(self, weights: str | None) -> None:
        path = Path(__file__).with_name(f"{self.name}.safetensors") if weights is None else Path(weights).expanduser()
        network = self.network_class()
        try:
            network.load_state_dict(open_file(path).tensors)
        except RuntimeError as error:
            raise CheckpointError(f"{path} does not hold {self.name}: {str(error).splitlines()[-1].strip()}") from error
        self.network, self.sha256 = network.eval().requires_grad_(False), file_sha256(path)

    @classmethod
    @abstractmethod
    def fits(cls, size: tuple[int, ...]) -> bool:
        """Return whether pictures of a size (C, *S) are what it looks at."""

    @abstractmethod
    def seen(self, pixels: Tensor) -> Seen:
        """See pictures that fit, fp32 on the CPU."""

    @torch.no_grad()
    def see(self, pixels: Tensor) -> Seen:
        size = tuple(pixels.shape[1:])
        if not self.fits(size):
            raise EvaluationError(f"features '{self.name}' look at {self.looks_at}, found {'x'.join(map(str, size))}")
        return self.seen(pixels.float().cpu())
