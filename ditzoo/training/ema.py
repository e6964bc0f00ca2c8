"""An exponential moving average of a module's parameters, kept in fp32 beside them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """average <- decay * average + (1 - decay) * parameter, after each optimiser step.

    With `warmup` the decay of step n (from 1) is min(decay, (1 + n) / (10 + n)), so early averages are not held down by
    the initial weights. Decay 0 makes the average the parameters themselves.
    """

    def __init__(self, module: nn.Module, decay: float, *, warmup: bool = True) -> None:
        self.decay, self.warmup = decay, warmup
        self.names = [name for name, _ in module.named_parameters()]
        self.average = [p.detach().clone().float() for p in module.parameters()]

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        torch._foreach_lerp_(self.average, [p.detach().float() for p in module.parameters()], 1 - decay)

    def state(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.average, strict=True))

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        for name, average in zip(self.names, self.average, strict=True):
            average.copy_(state[name])

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Run a block of code with the averages as the module's parameters."""
        kept = [p.data for p in module.parameters()]
        try:
            for p, average in zip(module.parameters(), self.average, strict=True):
                p.data = average.to(p.dtype)
            yield
        finally:
            for p, own in zip(module.parameters(), kept, strict=True):
                p.data = own
