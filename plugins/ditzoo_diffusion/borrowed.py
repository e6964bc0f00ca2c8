"""A scheduler of diffusers at work as a sampler: its own state lives for one run, so the sampler itself has none."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ditzoo.errors import SamplingError, listed
from ditzoo.interfaces import Denoise, Sampler, Schedule
from ditzoo.noise import Noise

if TYPE_CHECKING:
    from ditzoo_diffusion.borrowed_spec import BorrowedSpec

TRAIN_STEPS = 1000  # by which diffusers multiplies the times of flow matching


class Borrowed(Sampler):
    """Yields as often as there are steps, though some schedulers look more than once a step."""

    def __init__(self, spec: BorrowedSpec) -> None:
        self.spec = spec

    def evaluations(self, steps: int) -> int:
        return self.spec.looks(steps)

    def trajectory(self, denoise: Denoise, x: Tensor, schedule: Schedule, steps: int, noise: Noise) -> Iterator[Tensor]:
        scheduler = self._scheduler(schedule)
        self._set_times(scheduler, schedule, steps)
        options = self._drawing(scheduler, noise)
        if not self.spec.straight:
            x = x * scheduler.init_noise_sigma
        looks = scheduler.timesteps.tolist()
        count = TRAIN_STEPS if schedule.count is None else schedule.count
        done = 0
        for i, step in enumerate(scheduler.timesteps):
            t = torch.tensor(looks[i] / count if self.spec.straight else (looks[i] + 1) / count, dtype=torch.float64)
            seen = denoise(scheduler.scale_model_input(x, step) if hasattr(scheduler, "scale_model_input") else x, t)
            out = seen.eps - seen.x0 if self.spec.straight else seen.eps
            x = scheduler.step(out, step, x, **options).prev_sample.to(x.dtype)
            while done < (i + 1) * steps // len(looks):
                done += 1
                yield x

    def _scheduler(self, schedule: Schedule) -> Any:
        import diffusers

        cls: Any = getattr(diffusers, self.spec.scheduler)
        known = inspect.signature(cls.__init__).parameters
        config: dict[str, Any] = {"prediction_type": "flow_prediction" if self.spec.straight else "epsilon", "clip_sample": False}
        if schedule.count is not None:
            times = torch.arange(schedule.count + 1, dtype=torch.float64) / schedule.count
            levels = schedule.alpha_sigma(times)[0].square()
            config |= {"num_train_timesteps": schedule.count, "trained_betas": (1 - levels[1:] / levels[:-1]).tolist()}
        spacing = type(getattr(schedule, "spacing", None)).__name__.lower()
        config |= {"timestep_spacing": spacing} if spacing in ("linspace", "leading", "trailing") else {}
        config = {name: value for name, value in config.items() if name in known} | self.spec.config
        unknown = [name for name in config if name not in known]
        if unknown:
            raise SamplingError(
                f"sampler.config has {listed(unknown)}, which {self.spec.scheduler} does not take (it takes {listed(known)})"
            )
        try:
            return cls(**config)
        except (TypeError, ValueError, NotImplementedError, ImportError) as error:
            raise SamplingError(
                f"{self.spec.scheduler} cannot be made with sampler.config={self.spec.config}: {' '.join(str(error).split())}"
            ) from error

    def _set_times(self, scheduler: Any, schedule: Schedule, steps: int) -> None:
        """Have a flow scheduler walk our times where it can be told them; others have spacings of their own."""
        takes = inspect.signature(scheduler.set_timesteps).parameters
        try:
            if self.spec.straight and "sigmas" in takes:
                scheduler.set_timesteps(sigmas=schedule.times(steps)[:-1].numpy())
            else:
                scheduler.set_timesteps(steps)
        except (ValueError, AssertionError) as error:
            raise SamplingError(f"{self.spec.scheduler} cannot walk {steps} steps: {error}") from error

    @staticmethod
    def _drawing(scheduler: Any, noise: Noise) -> dict[str, Any]:
        if "generator" not in inspect.signature(scheduler.step).parameters:
            return {}
        return {"generator": noise.generators[0] if noise.shared else list(noise.generators)}
