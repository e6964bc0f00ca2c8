"""Checks of schedules: a path from noise to data, and every number on it known in one way."""

from __future__ import annotations

import math
import pickle
from functools import partial

import torch

from ditzoo.interfaces import Schedule
from ditzoo.specs import ScheduleSpec
from ditzoo.testing.findings import Checks, NotApplicableError, hold


def schedule_checks(spec: ScheduleSpec) -> Checks:
    schedule = spec.build()
    return {
        "times fall to 0": partial(_times, spec, schedule),
        "clean data at 0, noise at 1": partial(_ends, schedule),
        "levels are known at any time": partial(_inverse, schedule),
        "a level a network time": partial(_network_times, spec, schedule),
        "split undoes target": partial(_split, schedule),
        "training times lie on the path": partial(_draws, schedule),
        "starts at its own level": partial(_start, schedule),
        "shift is a shift": partial(_shift, spec),
        "pickles": lambda: hold(pickle.loads(pickle.dumps(spec)) == spec, "the spec is another one after pickling"),
    }


def _counts(spec: ScheduleSpec) -> list[int]:
    return [steps for steps in (1, 2, 7, 50) if spec.max_steps is None or steps <= spec.max_steps]


def _times(spec: ScheduleSpec, schedule: Schedule) -> None:
    for steps in _counts(spec):
        times = schedule.times(steps)
        hold(times.shape == (steps + 1,), f"{steps} steps give {len(times)} times; {steps + 1} are due")
        hold(
            times[-1] == 0 and times[0] <= 1,
            f"{steps} steps go from {float(times[0]):g} to {float(times[-1]):g}; from at most 1 to 0 is due",
        )
        hold(bool((times.diff() < 0).all()), f"times of {steps} steps do not fall strictly: {times.tolist()[:6]} ...")
        hold(torch.equal(times, schedule.times(steps)), "asked twice, the times differ")


def _ends(schedule: Schedule) -> None:
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    alpha, sigma = schedule.alpha_sigma(t)
    hold(alpha[0] == 1 and sigma[0] == 0, f"at t = 0 alpha is {float(alpha[0]):g} and sigma {float(sigma[0]):g}; 1 and 0 are due")
    ratio = torch.atan2(sigma, alpha)
    hold(bool((ratio.diff() >= 0).all()), "sigma / alpha does not rise with t")
    hold(ratio[-1] > 1.4, f"at t = 1 sigma / alpha is {float(ratio[-1].tan()):.2g}, which is not noise yet")


def _inverse(schedule: Schedule) -> None:
    t = torch.linspace(0.05, 0.95, 13, dtype=torch.float64)
    alpha, sigma = schedule.alpha_sigma(t)
    off = (schedule.time_at((alpha / sigma).log()) - t).abs().max()
    hold(off < 1e-4, f"time_at(log(alpha / sigma)) is off by {float(off):.2g}")


def _network_times(spec: ScheduleSpec, schedule: Schedule) -> None:
    for steps in _counts(spec):
        fed = schedule.model_time(schedule.times(steps)[:-1]).diff()
        hold(bool((fed < 0).all() or (fed > 0).all()), f"in {steps} steps the network is fed a time twice, or out of order")


def _split(schedule: Schedule) -> None:
    draws = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 5, 3, 4, 4, generator=draws, dtype=torch.float64)
    t = schedule.draw(torch.linspace(0.1, 0.9, 5, dtype=torch.float64))
    alpha, sigma = (z.view(-1, 1, 1, 1) for z in schedule.alpha_sigma(t))
    seen = schedule.split(schedule.target(x0, eps, t), alpha * x0 + sigma * eps, t)
    hold(torch.allclose(seen.x0, x0, atol=1e-6), "a perfect network's output is not read back as x_0")
    hold(torch.allclose(seen.eps, eps, atol=1e-6), "a perfect network's output is not read back as eps")


def _draws(schedule: Schedule) -> None:
    t = schedule.draw(torch.linspace(0, 1 - 1e-9, 1001, dtype=torch.float64))
    hold(bool(((t >= 0) & (t <= 1)).all()), "a training time lies outside 0 to 1")
    hold(bool((t.diff() >= 0).all() or (t.diff() <= 0).all()), "training times are no monotone function of the draw")
    if schedule.count is not None:
        steps = t * schedule.count
        hold(torch.allclose(steps, steps.round(), atol=1e-6), "a training time is no trained step")
        hold(float(t.min()) > 0, "a training time is clean data")


def _start(schedule: Schedule) -> None:
    t = schedule.times(5)[0]
    noise = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    found, sigma = float(schedule.start(noise, t).std()), float(schedule.alpha_sigma(t)[1])
    hold(abs(found - sigma) < 0.05 * max(sigma, 1e-9) + 0.02, f"it starts at deviation {found:.3g}, where sigma is {sigma:.3g}")


def _shift(spec: ScheduleSpec) -> None:
    """log(alpha / sigma) of shifted times is that of the unshifted less log(shift) (Esser et al. 2024, eq. 23), on a straight path."""
    if "shift" not in type(spec).model_fields or "straight-path" not in spec.provides_now:
        raise NotApplicableError("it has no shift")
    halves = []
    for shift in (1.0, 3.0):
        schedule = spec.model_copy(update={"shift": shift}).build()
        alpha, sigma = schedule.alpha_sigma(schedule.times(8)[1:-1])
        halves.append((alpha / sigma).log())
    off = (halves[0] - halves[1] - math.log(3)).abs().max()
    hold(off < 1e-6, f"shift 3 moves log(alpha / sigma) by {float((halves[0] - halves[1]).mean()):.3f}, where log 3 = 1.099 is due")
