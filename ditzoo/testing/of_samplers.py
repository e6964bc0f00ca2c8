"""Checks of samplers: against data whose exact denoiser is known, and against the promises of the interface."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator
from functools import partial
from itertools import zip_longest

import torch
from torch import Tensor

from ditzoo.interfaces import Prediction, Schedule
from ditzoo.matrix import examples
from ditzoo.noise import Noise
from ditzoo.specs import SamplerSpec, ScheduleSpec
from ditzoo.testing.findings import Checks, NotApplicableError, hold
from ditzoo.testing.oracle import Gaussian2, Window, mixture_denoiser
from ditzoo.zoo import Zoo

STEPS, COUNT = 150, 2000  # ancestral steps are biased by as much as their number is small


def fitting(spec: SamplerSpec, zoo: Zoo) -> Iterator[tuple[str, ScheduleSpec]]:
    """Yield the installed schedules that offer what a sampler requires of one."""
    learned = spec.requires_now & {"learned-variance"}
    for name, data in examples(zoo, "schedule").items():
        schedule = zoo.part("schedule", data)
        assert isinstance(schedule, ScheduleSpec)
        if spec.requires_now - learned <= schedule.provides_now:
            yield name, schedule


def sampler_checks(spec: SamplerSpec, zoo: Zoo) -> Checks:
    """Return the checks of a sampler, with one of its distribution for each schedule that it fits."""
    schedules = dict(fitting(spec, zoo))
    hold(schedules, f"no installed schedule provides {', '.join(sorted(spec.requires_now))}")
    first = next(iter(schedules.values())).build()
    checks = {f"mean and covariance on {name}": partial(_distribution, spec, schedule) for name, schedule in schedules.items()}
    return checks | {
        "order of convergence": partial(_order, spec, first),
        "as many steps as asked": partial(_count, spec, first),
        "counts its looks": partial(_looks, spec, first),
        "same seed, same picture": partial(_repeatable, spec, first),
        "a picture apart from its batch": partial(_apart, spec, first),
        "no state between runs": partial(_stateless, spec, first),
        "pickles": lambda: _pickles(spec),
    }


def _walk(spec: SamplerSpec, schedule: Schedule, x: Tensor, steps: int, noise: Noise) -> list[Tensor]:
    return list(spec.build().trajectory(mixture_denoiser(schedule), x, schedule, steps, noise))


def _start(schedule: Schedule, rows: range, steps: int) -> tuple[Tensor, Noise]:
    noise = Noise.seeded(7, rows)
    return schedule.start(noise.draw(torch.empty(len(rows), 1, 2, 2)), schedule.times(steps)[0]), noise


def _distribution(spec: SamplerSpec, declared: ScheduleSpec) -> None:
    schedule = declared.build()
    noise = Noise([torch.Generator().manual_seed(11)], shared=True)
    x = schedule.start(noise.draw(torch.empty(COUNT, 2)), schedule.times(STEPS)[0])
    data = Gaussian2()
    *_, found = spec.build().trajectory(data.denoiser(schedule), x, schedule, STEPS, noise)
    off = (found.double().mean(0) - data.mean).abs().max()
    hold(off < 5 * data.covariance.diagonal().max().sqrt() / COUNT**0.5 + 0.03, f"the samples' mean is off by {float(off):.3f}")
    apart = (found.double().T.cov() - data.covariance).abs().max() / data.covariance.abs().max()
    hold(apart < 0.15, f"the samples' covariance is off by {float(apart):.0%} of the largest")


def _order(spec: SamplerSpec, schedule: Schedule) -> None:
    promised = spec.promised_order
    if promised is None:
        raise NotApplicableError("no order is promised")
    fine = Window(schedule, 0.6, 0.3)
    x = torch.linspace(-2, 2, 21, dtype=torch.float64)[:, None]
    ends = {steps: _walk(spec, fine, x, steps, Noise.seeded(0, range(21)))[-1] for steps in (20, 40, 80)}
    ratio = (ends[20] - ends[40]).square().mean().sqrt() / (ends[40] - ends[80]).square().mean().sqrt()
    measured = math.log2(float(ratio))
    hold(measured > promised - 0.35, f"it promises order {promised} and converges with order {measured:.2f}")


def _count(spec: SamplerSpec, schedule: Schedule) -> None:
    for steps in (4, 10):
        x, noise = _start(schedule, range(2), steps)
        found = _walk(spec, schedule, x, steps, noise)
        hold(len(found) == steps, f"{steps} steps asked, {len(found)} yielded")
        hold(all(one.shape == x.shape and torch.isfinite(one).all() for one in found), "a step has another shape, or is not finite")
    if problem := spec.check_steps(1):
        raise NotApplicableError(problem)
    x, noise = _start(schedule, range(2), 1)
    hold(len(_walk(spec, schedule, x, 1, noise)) == 1, "one step asked, and not one yielded; or say so in check_steps")


def _looks(spec: SamplerSpec, schedule: Schedule) -> None:
    exact, looks = mixture_denoiser(schedule), 0

    def denoise(x: Tensor, t: Tensor) -> Prediction:
        nonlocal looks
        looks += 1
        return exact(x, t)

    x, noise = _start(schedule, range(2), 9)
    sampler = spec.build()
    list(sampler.trajectory(denoise, x, schedule, 9, noise))
    hold(looks == sampler.evaluations(9), f"it looks {looks} times in 9 steps, and says {sampler.evaluations(9)}")


def _repeatable(spec: SamplerSpec, schedule: Schedule) -> None:
    ends = [_walk(spec, schedule, *_start_args(schedule))[-1] for _ in range(2)]
    hold(torch.equal(*ends), "two runs of one seed differ")


def _start_args(schedule: Schedule) -> tuple[Tensor, int, Noise]:
    x, noise = _start(schedule, range(3), 6)
    return x, 6, noise


def _apart(spec: SamplerSpec, schedule: Schedule) -> None:
    together = _walk(spec, schedule, *_start_args(schedule))[-1]
    for row in range(3):
        x, noise = _start(schedule, range(row, row + 1), 6)
        alone = _walk(spec, schedule, x, 6, noise)[-1]
        off = float((together[row : row + 1] - alone).abs().max())
        hold(off < 1e-4, f"a picture is off by {off:.2g} when it is drawn alone")


def _stateless(spec: SamplerSpec, schedule: Schedule) -> None:
    sampler, denoise = spec.build(), mixture_denoiser(schedule)
    (x, steps, one), (y, _, two) = _start_args(schedule), _start_args(schedule)
    whole = list(sampler.trajectory(denoise, x, schedule, steps, one))
    (z, _, three) = _start_args(schedule)
    runs = sampler.trajectory(denoise, y, schedule, steps, two), sampler.trajectory(denoise, z * 0.5, schedule, steps, three)
    found = [a for a, _ in zip_longest(*runs)]
    hold(torch.equal(whole[-1], found[-1]), "a run changes with another that goes on beside it")


def _pickles(spec: SamplerSpec) -> None:
    hold(pickle.loads(pickle.dumps(spec)) == spec, "the spec is another one after pickling")
