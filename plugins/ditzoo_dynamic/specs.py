"""Specs of exits, of the loss that trains them, and of the sampler that uses them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from ditzoo.specs import ConditioningSlot, ConditioningSpec, ExitsSpec, LossSpec, PolicySlot, Positive, SamplerSlot, SamplerSpec, Spec
from ditzoo_dynamic.policy_specs import UniformSpec, unreadable

if TYPE_CHECKING:
    from ditzoo.interfaces import Backbone, Conditioning, Exits, Loss, Sampler
    from ditzoo.model_spec import ModelSpec


class OffsetExitsSpec(ExitsSpec):
    """Exits through the backbone's own head, behind a scale and a shift of each channel: 2 x width numbers an exit."""

    kind: Literal["offset"] = "offset"

    @classmethod
    def examples(cls) -> dict[str, dict[str, Any]]:
        return {"": {"at": [1]}}

    def build(self, backbone: Backbone, width: int) -> Exits:
        from ditzoo_dynamic.exits import OffsetExits

        return OffsetExits(self.at, width)


class SeparateExitsSpec(ExitsSpec):
    """Exits with a head of their own each: copies of the modules that the backbone's head is made of."""

    kind: Literal["separate"] = "separate"
    requires: ClassVar[frozenset[str]] = frozenset({"separate-head"})

    @classmethod
    def examples(cls) -> dict[str, dict[str, Any]]:
        return {"": {"at": [1]}}

    def build(self, backbone: Backbone, width: int) -> Exits:
        from ditzoo_dynamic.exits import SeparateExits

        return SeparateExits(self.at, backbone)


class ExitLossSpec(LossSpec):
    """Supervision of every exit in every step: the squared error to the target, and to what the last block says.

    `distill` is the share of the second. The loss of each exit weighs `weight` beside that of the last block.
    """

    kind: Literal["exits"] = "exits"
    provides: ClassVar[frozenset[str]] = frozenset({"trains-exits", "packs"})
    weight: float = Field(0.3, gt=0)
    distill: float = Field(0.5, ge=0, le=1)

    def check(self, model: ModelSpec) -> str | None:
        if len(model.readable) > 1:
            return None
        return (
            f"'{model.name}' has no exits to train; give it some: model.exits={{kind='offset', at=[{max(model.backbone.depth // 2, 1)}]}}"
        )

    def build(self, model: ModelSpec) -> Loss:
        from ditzoo_dynamic.supervision import ExitLoss

        return ExitLoss(model.readable[:-1], self.distill)


class DyDiTSpec(ConditioningSpec):
    """DyDiT (Zhao et al. 2024) over any conditioning: the time chooses heads and groups of channels, each token whether the MLP sees it.

    It begins as the network that it is made of. The loss `flops` teaches it what share of the multiply-adds to spend.
    """

    kind: Literal["dydit"] = "dydit"
    inner: ConditioningSlot
    groups: Positive = Field(8, description="groups that the MLP's channels are chosen in")

    @classmethod
    def examples(cls) -> dict[str, dict[str, Any]]:
        return {"": {"inner": "adaln-zero"}}

    @property
    def provides_now(self) -> frozenset[str]:
        return self.inner.provides_now - {"packs"} | {"routed-blocks"}

    @property
    def requires_now(self) -> frozenset[str]:
        return self.inner.requires_now

    def build(self, width: int) -> Conditioning:
        from ditzoo_dynamic.dydit import Dynamic

        return Dynamic(self.inner.build(width), self.groups)


class FlopsLossSpec(LossSpec):
    """(share - target)^2, where share is that of the blocks' multiply-adds which DyDiT's routers choose."""

    kind: Literal["flops"] = "flops"
    target: float = Field(gt=0, le=1)

    def check(self, model: ModelSpec) -> str | None:
        if "routed-blocks" in model.conditioning.provides_now:
            return None
        own = model.conditioning.kind
        return f"conditioning '{own}' chooses nothing to spend; set model.conditioning={{kind='dydit', inner='{own}'}}"

    def build(self, model: ModelSpec) -> Loss:
        from ditzoo_dynamic.flops import FlopsLoss

        return FlopsLoss(model.backbone.depth, self.target)


class InternalGuidance(Spec):
    """Guidance by an exit of the same pass (Zhou et al. 2025, "Internal Guidance"): out + (scale - 1) (out - out at `exit`).

    It acts for t within `interval` (1 is noise), and costs a head.
    """

    exit: Positive
    scale: float = Field(ge=0)
    interval: tuple[float, float] = (0.0, 1.0)


class EarlyExitSpec(SamplerSpec):
    """Any sampler, with looks that stop before the last block where a depth policy says so.

    `null_exit` is the depth at which the unconditional branch of guidance leaves, whatever the policy; `internal` adds guidance by an exit.
    The name is the field's for leaving at an exit chosen by noise level (AdaDiff, Tang et al. 2023; ASE, Moon et al. 2024).
    """

    kind: Literal["early-exit"] = "early-exit"
    provides: ClassVar[frozenset[str]] = frozenset({"leaves-early"})

    inner: SamplerSlot
    policy: PolicySlot = UniformSpec()
    null_exit: Positive | None = None
    internal: InternalGuidance | None = None

    @classmethod
    def examples(cls) -> dict[str, dict[str, Any]]:
        return {"": {"inner": "ddim"}, "residuals": {"inner": "ab2", "policy": {"kind": "exit-residual", "prefix": 1}}}

    @property
    def provides_now(self) -> frozenset[str]:
        return self.provides | self.inner.provides_now | self.policy.provides_now

    @property
    def requires_now(self) -> frozenset[str]:
        return self.inner.requires_now | self.policy.requires_now

    @property
    def promised_order(self) -> int | None:
        return self.inner.promised_order if self.policy == UniformSpec() else None

    def seen(self, size: Sequence[int]) -> tuple[int, ...]:
        return self.inner.seen(size)

    def check_steps(self, steps: int) -> str | None:
        return self.inner.check_steps(steps)

    def check(self, model: ModelSpec) -> str | None:
        for field, depth in (("null_exit", self.null_exit), ("internal.exit", self.internal.exit if self.internal else None)):
            if depth is not None and (problem := unreadable(model, depth)):
                return f"sampler.{field}={depth}: {problem}"
        if "leaves-early" in self.inner.provides_now:
            return "sampler.inner is an early-exit sampler itself; name the solver there, and set policy and exits outside"
        return self.inner.check(model) or self.policy.check(model)

    def build(self) -> Sampler:
        from ditzoo_dynamic.sampler import EarlyExit

        return EarlyExit(self)
