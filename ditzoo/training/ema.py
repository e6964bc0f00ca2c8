"""An exponential moving average of a module's parameters, kept in fp32 beside them; shared out where they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ditzoo.lora import tuned
from ditzoo.training.sharding import placed, share


class EMA:
    """average <- decay * average + (1 - decay) * parameter, after each optimiser step.

    With `warmup` the decay of step n (from 1) is min(decay, (1 + n) / (10 + n)), so early averages are not held down by
    the initial weights. Decay 0 makes the average the parameters themselves. Beside adapters nothing else is averaged.
    """

    def __init__(self, module: nn.Module, decay: float, *, warmup: bool = True) -> None:
        self.decay, self.warmup = decay, warmup
        self.average = {name: p.detach().clone().float() for name, p in own_parameters(module).items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        own = [share(average) for average in self.average.values()]
        torch._foreach_lerp_(own, [share(p.detach()).float() for p in own_parameters(module).values()], 1 - decay)

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        for name, average in self.average.items():
            average.copy_(placed(state[name].float(), average))

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Run a block of code with the averages as the parameters of a module that is not sharded."""
        parameters = list(own_parameters(module).values())
        kept = [p.data for p in parameters]
        try:
            for p, average in zip(parameters, self.average.values(), strict=True):
                p.data = average.to(p.dtype)
            yield
        finally:
            for p, own in zip(parameters, kept, strict=True):
                p.data = own


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that a run makes, by name: all, or where there are adapters, what is not the frozen model that they are in."""
    adapted = any(True for _ in tuned(module))
    return {name: p for name, p in module.named_parameters() if p.requires_grad or not adapted}
