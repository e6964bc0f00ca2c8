"""Calibration of a table of depths: what leaving early at a noise level does to the finished picture.

The error that counts is terminal: the mean square by which the end of a run changes when the looks of one bin leave at an exit, with the
same noise. An error of the look itself would say that noisy steps are the safest; what comes of it at the end says the opposite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm import tqdm

from ditzoo.assemble import Model
from ditzoo.denoiser import Ledger
from ditzoo.errors import SamplingError
from ditzoo.interfaces import Prediction
from ditzoo.model_spec import ModelSpec
from ditzoo.noise import Noise
from ditzoo.passes import Branch
from ditzoo.request import Steering
from ditzoo.sampling import denoiser_of
from ditzoo_dynamic.budget import Choice, cheapest
from ditzoo_dynamic.planned import Planned, fingerprint
from ditzoo_dynamic.points import solver_of
from ditzoo_dynamic.policy_specs import DepthTable

SERVES = (0.8, 1.25)  # numbers of steps that a table serves, as shares of those it was calibrated on; of twice as many it loses far more
ADDITIVE = 2.0  # the measured error may be so many times the predicted one before the table is repaired
REPAIRS = 6


@dataclass
class Rehearsal:
    """Runs of one batch by one solver, at full depth but where a run is told otherwise; looks before that are not made again."""

    model: Model
    spec: ModelSpec
    count: int
    seed: int
    record: list[tuple[float, Prediction]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.items = self.spec.prompt.default(self.count)
        size = (self.spec.backbone.in_channels, *self.spec.latent_size())
        self.begun = Noise.seeded(self.seed, range(self.count)).draw(torch.empty(self.count, *size)).to(self.model.device, self.model.dtype)
        self.whole = self.end(None)

    def end(self, policy: Planned | None, first: float = 1.0) -> Tensor:
        """Return the end of a run (B, C, *S). Looks at t above `first` are as they were at full depth."""
        sampler, denoiser = self.spec.sampler.build(), denoiser_of(self.model, self.spec, self.items, Ledger(), Steering())
        denoiser = sampler.prepare(denoiser)
        recording, own = policy is None, denoiser if policy is None else denoiser.under(policy)
        noise = Noise.seeded(self.seed, range(self.count))
        noise.draw(self.begun)  # what a run begins with is drawn first
        looks, alike = iter(self.record), not recording

        def denoise(x: Tensor, t: Tensor) -> Prediction:
            nonlocal alike
            if alike and float(t) > first:
                return next(looks)[1]
            alike = False
            seen = own(x, t)
            if recording:
                self.record.append((float(t), seen))
            return seen

        schedule = denoiser.schedule
        start = schedule.start(self.begun, schedule.times(self.spec.sampling.steps)[0])
        *_, found = sampler.trajectory(denoise, start, schedule, self.spec.sampling.steps, noise)
        return found

    def error(self, policy: Planned, first: float = 1.0) -> float:
        """Return the mean square between the ends of a run under a policy and of the one at full depth."""
        return float((self.end(policy, first) - self.whole).float().square().mean())


@dataclass(frozen=True)
class Calibration:
    """What every depth in every bin costs and does to the end of a run, and tables out of it."""

    rehearsal: Rehearsal
    edges: Sequence[float]
    choices: Sequence[Sequence[Choice]]

    @torch.no_grad()
    def table(self, budget: float) -> DepthTable:
        """Return the table of least terminal error that spends `budget` of all block evaluations."""
        spec, model = self.rehearsal.spec, self.rehearsal.model
        most = sum(max(one.cost for one in options) for options in self.choices)
        taken = cheapest(self.choices, int(budget * most))
        if taken is None:
            least = sum(min(one.cost for one in options) for options in self.choices) / most
            raise SamplingError(f"budget {budget:g} is below the least that the exits of '{spec.name}' allow, {least:.2f} of all blocks")
        taken, measured = _repaired(self, taken, int(budget * most))
        low, high = (max(1, round(share * spec.sampling.steps)) for share in SERVES)
        return DepthTable(
            model=spec.name,
            fingerprint=fingerprint(model.backbone),
            solver=solver_of(spec).model_dump(mode="json"),
            schedule=spec.schedule.model_dump(mode="json"),
            guidance=spec.guidance.model_dump(mode="json"),
            steps=(low, high),
            edges=tuple(self.edges),
            cond=tuple(one.cond for one in taken),
            null=tuple(one.null for one in taken),
            budget=budget,
            figures={
                "share_of_blocks": sum(one.cost for one in taken) / most,
                "predicted_mse": sum(one.error for one in taken),
                "measured_mse": measured,
                "pictures": self.rehearsal.count,
                "steps": spec.sampling.steps,
            },
        )

    def error(self, table: Sequence[Choice]) -> float:
        """Return the terminal error of a table, measured."""
        return self.rehearsal.error(Planned([one.cond for one in table], [one.null for one in table], self.edges))


@torch.no_grad()
def calibrated(model: Model, spec: ModelSpec, *, bins: int = 8, count: int = 30, seed: int = 0, quiet: bool = False) -> Calibration:
    """Measure what leaving early does, bin by bin, for the solver, steps and guidance of `spec`.

    `count` pictures of `seed` are drawn over and over.
    """
    if len(spec.readable) < 2:
        raise SamplingError(
            f"'{spec.name}' has no exits to choose among; train it with some (docs/dynamic.md), or use policy exit-residual"
        )
    rehearsal, full = Rehearsal(model, spec, count, seed), spec.backbone.depth
    times = [t for t, _ in rehearsal.record]
    edges = _edges(times, bins)
    guided = [_is_guided(model, spec, t) for t in times]
    every = range(len(edges) - 1)
    inside = [[i for i, t in enumerate(times) if edges[bin] <= t < edges[bin + 1] or (t == 1.0 and bin == len(edges) - 2)] for bin in every]
    errors: dict[tuple[int, str, int], float] = {}
    jobs = [
        (bin, name, depth)
        for bin in every
        for name in ("cond", "null")
        for depth in spec.readable[:-1]
        if name == "cond" or any(guided[i] for i in inside[bin])
    ]
    for bin, name, depth in tqdm(jobs, desc="calibrating", unit="run", disable=True if quiet else None):
        at = [full] * len(every)
        early = [*at[:bin], depth, *at[bin + 1 :]]
        policy = Planned(early if name == "cond" else at, early if name == "null" else at, edges)
        errors[bin, name, depth] = rehearsal.error(policy, max(times[i] for i in inside[bin]))
    return Calibration(rehearsal, edges, [_choices(errors, bin, [guided[i] for i in inside[bin]], spec.readable) for bin in every])


def _edges(times: Sequence[float], bins: int) -> list[float]:
    """Return edges that share the looks out evenly among at most `bins` bins, each edge between two looks."""
    rising = sorted(set(times))
    bins = min(bins, len(rising))
    inner = [(rising[cut - 1] + rising[cut]) / 2 for cut in (round(len(rising) * part / bins) for part in range(1, bins))]
    return [0.0, *inner, 1.0]


def _is_guided(model: Model, spec: ModelSpec, t: float) -> bool:
    branches: Sequence[Branch] = denoiser_of(model, spec, spec.prompt.default(1), Ledger(), Steering()).branches(t)
    return any(branch.name == "null" for branch in branches)


def _choices(errors: dict[tuple[int, str, int], float], bin: int, guided: Sequence[bool], depths: Sequence[int]) -> list[Choice]:
    """Return all ways through a bin. Where a look is not guided its null depth costs nothing, and is the whole."""
    full, found = depths[-1], []
    for cond in depths:
        for null in depths if any(guided) else (full,):
            error = errors.get((bin, "cond", cond), 0.0) + errors.get((bin, "null", null), 0.0)
            found.append(Choice(cond * len(guided) + null * sum(guided), error, cond, null))
    return found


def _repaired(calibration: Calibration, taken: list[Choice], budget: int) -> tuple[list[Choice], float]:
    """Return a table and its measured error, without what is worst where errors do not add up and that helps."""
    choices, error = calibration.choices, calibration.error(taken)
    for _ in range(REPAIRS):
        if error <= ADDITIVE * sum(one.error for one in taken):
            break
        worst = max(range(len(taken)), key=lambda bin: taken[bin].error)
        without = [[one for one in options if one != taken[worst]] if bin == worst else options for bin, options in enumerate(choices)]
        other = cheapest(without, budget)
        if other is None or (found := calibration.error(other)) >= error:
            break
        taken, error, choices = other, found, without
    return taken, error
