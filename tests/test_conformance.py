"""The conformance kit: every built-in plugin passes it, and parts that are broken on purpose are caught by the check that is theirs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import ClassVar, Literal

import pytest
import torch
from conftest import run_ditzoo
from ditzoo_conditioning.prompts import LabelSpec
from ditzoo_diffusion.ode import AB2, Euler, Heun, Walk
from ditzoo_diffusion.schedules import CosineSpec, LinearSpec
from ditzoo_diffusion.specs import DDIMSpec, EulerSpec, HeunSpec
from ditzoo_diffusion.stochastic import DDIM
from ditzoo_diffusion.vp import DiscreteVP
from ditzoo_dit.backbone import DiT
from ditzoo_dit.spec import DiTSpec
from ditzoo_dynamic.exits import OffsetExits
from ditzoo_dynamic.planned import Planned
from ditzoo_dynamic.policy_specs import UniformSpec
from ditzoo_dynamic.specs import OffsetExitsSpec
from ditzoo_flow.schedule import Flow
from ditzoo_flow.spec import FlowSpec

from ditzoo.errors import PluginError
from ditzoo.testing import assert_conforms, check_package, check_part


@pytest.mark.parametrize("plugin", ["dit", "conditioning", "diffusion", "flow", "data", "dynamic", "mmdit", "text", "pixart"])
def test_every_built_in_plugin_conforms(zoo, plugin):
    assert_conforms(plugin, zoo)


def test_a_strangers_plugin_is_checked_as_ours_are(strangers_zoo):
    found = list(check_package(strangers_zoo, "strangers.two_stream"))
    assert {one.part for one in found} >= {"backbone toy-two-stream", "conditioning toy-joint", "prompt toy-words"}


def test_the_command_tells_each_check_and_exits_with_2_where_one_fails():
    done = run_ditzoo("check", "flow", "--json")
    assert done.returncode == 0, done.stderr
    (report,) = json.loads(done.stdout)
    assert report["ok"]
    assert {"part": "schedule gvp", "check": "split undoes target", "ok": True, "told": ""} in report["checks"]
    plain = run_ditzoo("check", "flow")
    assert "ok    schedule gvp: split undoes target" in plain.stdout


def test_a_plugin_that_is_not_there_is_told(zoo):
    with pytest.raises(PluginError, match="no plugin 'flwo' is loaded; did you mean 'flow'"):
        list(check_package(zoo, "flwo"))


class EulerInDisguise(HeunSpec):
    kind: Literal["heun"] = "heun"

    def build(self):
        return Euler(self.along, self.clip)


class Forgetful(AB2):
    """Keeps its slopes from one run to the next."""

    held: ClassVar[list] = []

    def slope(self, walk: Walk, x, i, earlier):
        here = walk.look(x, i)
        self.held.append(here)
        before = self.held[-2] if len(self.held) > 1 and self.held[-2].shape == here.shape else here
        return 1.5 * here - 0.5 * before


class ForgetfulSpec(EulerSpec):
    def build(self):
        return Forgetful("path", None)


class TooFewSpec(EulerSpec):
    def build(self):
        class TooFew(Euler):
            def trajectory(self, denoise, x, schedule, steps, noise):
                yield from list(super().trajectory(denoise, x, schedule, steps, noise))[1:]

        return TooFew()


class SharedNoiseSpec(DDIMSpec):
    eta: float = 1.0

    def build(self):
        class SharedNoise(DDIM):
            def advance(self, x, seen, step, noise):
                mean = super().advance(x, seen, step, noise)
                return mean + 0.1 * torch.randn(x.shape)

        return SharedNoise(eta=1.0)


class MixingSpec(EulerSpec):
    def build(self):
        class Mixing(Euler):
            def slope(self, walk, x, i, earlier):
                found = walk.look(x, i)
                return found + 0.1 * (found.mean(0, keepdim=True) - found)

        return Mixing()


class HotSpec(DDIMSpec):
    """Adds noise that no step of the SDE has."""

    def build(self):
        class Hot(DDIM):
            def advance(self, x, seen, step, noise):
                return super().advance(x, seen, step, noise) + 0.1 * noise.draw(x)

        return Hot()


BROKEN_SAMPLERS = {
    "order of convergence": EulerInDisguise,
    "no state between runs": ForgetfulSpec,
    "as many steps as asked": TooFewSpec,
    "same seed, same picture": SharedNoiseSpec,
    "a picture apart from its batch": MixingSpec,
    "mean and covariance on flow": HotSpec,
    "counts its looks": EulerInDisguise,
}


class TwiceEulerSpec(EulerSpec):
    def build(self):
        class Twice(Heun):
            def evaluations(self, steps):
                return steps

        return Twice("path")


@pytest.mark.parametrize("check", BROKEN_SAMPLERS)
def test_a_broken_sampler_is_caught(zoo, check):
    cls = TwiceEulerSpec if check == "counts its looks" else BROKEN_SAMPLERS[check]
    failed = {one.check: one.told for one in check_part(cls(), zoo) if not one.ok}
    assert check in failed, failed


class DoubledShift(Flow):
    def times(self, steps):
        t = super().times(steps)
        return self.spec.shift * t / (1 + (self.spec.shift - 1) * t)


class DoubledShiftSpec(FlowSpec):
    def build(self):
        return DoubledShift(self)


class DuplicateStep(DiscreteVP):
    def model_time(self, t):
        return (super().model_time(t) / 30).floor() * 30


class DuplicateStepSpec(LinearSpec):
    def build(self):
        return DuplicateStep(self)


class WrongSign(Flow):
    def split(self, out, x, t):
        return super().split(-out, x, t)


class WrongSignSpec(FlowSpec):
    def build(self):
        return WrongSign(self)


class Rising(Flow):
    def times(self, steps):
        return super().times(steps).flip(0)


class RisingSpec(FlowSpec):
    def build(self):
        return Rising(self)


class NotClean(DiscreteVP):
    def alpha_sigma(self, t):
        return super().alpha_sigma(t.double() * 0.99 + 0.01)


class NotCleanSpec(CosineSpec):
    def build(self):
        return NotClean(self)


class LoudStart(Flow):
    def start(self, noise, t):
        return noise * 14.6


class LoudStartSpec(FlowSpec):
    def build(self):
        return LoudStart(self)


class CleanDraws(DiscreteVP):
    def draw(self, uniform):
        return super().draw(uniform) - 1 / self.count


class CleanDrawsSpec(LinearSpec):
    def build(self):
        return CleanDraws(self)


BROKEN_SCHEDULES = {
    "shift is a shift": DoubledShiftSpec,
    "a level a network time": DuplicateStepSpec,
    "split undoes target": WrongSignSpec,
    "times fall to 0": RisingSpec,
    "clean data at 0, noise at 1": NotCleanSpec,
    "levels are known at any time": NotCleanSpec,
    "starts at its own level": LoudStartSpec,
    "training times lie on the path": CleanDrawsSpec,
}


@pytest.mark.parametrize("check", BROKEN_SCHEDULES)
def test_a_broken_schedule_is_caught(zoo, check):
    failed = {one.check: one.told for one in check_part(BROKEN_SCHEDULES[check](), zoo) if not one.ok}
    assert check in failed, failed


class Unlike(DiTSpec):
    """A DiT that is broken in the way that `how` says."""

    how: str = ""

    def build(self, conditioning):
        return {"shortcut": Shortcut, "mixing": Mixing, "idle": Idle, "counting": Counting}[self.how](self, conditioning)


class Shortcut(DiT):
    def run(self, stream, lo, hi):
        found = super().run(stream, lo, hi)
        return found if lo == 0 or lo == hi else replace(found, tokens=found.tokens + 1e-3)


class Mixing(DiT):
    def begin(self, x, t, cond):
        return super().begin(x, t.mean().expand(len(t)), cond)


class Idle(DiT):
    def __init__(self, spec, conditioning):
        super().__init__(spec, conditioning)
        self.unused = torch.nn.Linear(2, 2)


class Counting(DiT):
    calls = 0

    def head(self, stream, exit=None):
        self.calls += 1
        return super().head(stream, exit) * self.calls


BROKEN_BACKBONES = {
    "runs in parts, bit for bit": "shortcut",
    "rows are apart": "mixing",
    "gradients reach every parameter": "idle",
    "keeps no state": "counting",
}


@pytest.mark.parametrize("check", BROKEN_BACKBONES)
def test_a_broken_backbone_is_caught(zoo, check, monkeypatch):
    monkeypatch.setitem(zoo.kinds["backbone"], "dit", Unlike)
    spec = Unlike(how=BROKEN_BACKBONES[check], **DiTSpec.examples()[""])
    failed = {one.check: one.told for one in check_part(spec, zoo) if not one.ok}
    assert check in failed, failed


class BrokenPolicySpec(UniformSpec):
    how: str

    def build(self):
        return {"remembers": Remembers, "mixes": Mixes, "deeper": Deeper, "skips": Skips}[self.how]((None,), (None,))


class Remembers(Planned):
    held: ClassVar[list] = []

    def follow(self, passes):
        def evaluate(branches, x, t):
            outs = passes.together(branches, x, t)
            self.held.append(outs[0].mean())
            return [out + self.held[0] * len(self.held) for out in outs]

        return evaluate


class Mixes(Planned):
    """Stops all rows where the batch as a whole is still."""

    def follow(self, passes):
        def evaluate(branches, x, t):
            depth = 2 if x.abs().mean() < 0.8 * x.abs().amax(dim=0).mean() else None
            return passes.together([replace(one, depth=one.depth or depth) for one in branches], x, t)

        return evaluate


class Deeper(Planned):
    def plan(self, t, branches):
        return [replace(one, depth=None) for one in branches]


class Skips(Planned):
    def follow(self, passes):
        return lambda branches, x, t: passes.together(branches[:1], x, t)


BROKEN_POLICIES = {
    "no state between runs": "remembers",
    "a picture apart from its batch": "mixes",
    "keeps a depth that a branch has": "deeper",
    "an output a branch, within all blocks": "skips",
}


@pytest.mark.parametrize("check", BROKEN_POLICIES)
def test_a_broken_policy_is_caught(zoo, check):
    failed = {one.check: one.told for one in check_part(BrokenPolicySpec(how=BROKEN_POLICIES[check]), zoo) if not one.ok}
    assert check in failed, failed


class BrokenExitsSpec(OffsetExitsSpec):
    how: Literal["coupled", "idle", "lost"]

    def build(self, backbone, width):
        return {"coupled": Coupled, "idle": IdleExits, "lost": Lost}[self.how](self.at, width)


class Coupled(OffsetExits):
    def forward(self, backbone, stream, depth):
        return super().forward(backbone, replace(stream, tokens=stream.tokens - stream.tokens.mean(0)), depth)


class IdleExits(OffsetExits):
    def forward(self, backbone, stream, depth):
        return backbone.head(stream)


class Lost(OffsetExits):
    def __init__(self, at, width):
        super().__init__(at, width)
        self.own = [p.detach().clone() for p in torch.nn.Linear(1, width).parameters()]

    def forward(self, backbone, stream, depth):
        return super().forward(backbone, replace(stream, tokens=stream.tokens + self.own[1]), depth)


BROKEN_EXITS = {"read at each of their depths": "coupled", "gradients reach every parameter": "idle", "saves and loads": "lost"}


@pytest.mark.parametrize("check", BROKEN_EXITS)
def test_broken_exits_are_caught(zoo, check, monkeypatch):
    monkeypatch.setitem(zoo.kinds["exits"], "offset", BrokenExitsSpec)
    failed = {one.check: one.told for one in check_part(BrokenExitsSpec(at=[1], how=BROKEN_EXITS[check]), zoo) if not one.ok}
    assert check in failed, failed


class CarelessSpec(LabelSpec):
    def parse(self, asked):
        return [0 for _ in asked]


def test_a_prompt_that_takes_anything_is_caught(zoo):
    failed = {one.check for one in check_part(CarelessSpec(classes=4), zoo) if not one.ok}
    assert failed == {"what makes no sense is refused"}


class DeclaredSpec(EulerInDisguise):
    expected_failures: ClassVar = {"order of convergence": "it is Euler in disguise", "pickles": "it does not, they say", "flies": "never"}


def test_expected_failures_are_strict(zoo):
    found = {one.check: one for one in check_part(DeclaredSpec(), zoo)}
    assert found["order of convergence"].ok
    assert found["order of convergence"].told == "expected: it is Euler in disguise"
    assert not found["flies"].ok
    assert "no such check is run" in found["flies"].told
    assert not found["pickles"].ok
    assert found["pickles"].told == "declared to fail, and it holds"
