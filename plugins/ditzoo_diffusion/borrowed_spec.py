"""The spec of `diffusers:NAME`: a scheduler of diffusers as a sampler, with what it needs known without importing it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ditzoo.errors import listed, suggest
from ditzoo.specs import SamplerSpec

if TYPE_CHECKING:
    from ditzoo.interfaces import Sampler

# by name: what the path must be, in the words of schedules
DISCRETE, STRAIGHT = frozenset({"variance-preserving", "discrete-time", "signal-at-start"}), frozenset({"straight-path"})
EITHER = (
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "SASolverScheduler",
    "UniPCMultistepScheduler",
)
TWICE = frozenset({"FlowMatchHeunDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler"})
RUNGE_KUTTA = 9  # looks that PNDM takes beyond one a step, in its first three
FEWEST = {"PNDMScheduler": 4}
KNOWN: dict[str, frozenset[str]] = {
    **dict.fromkeys(
        (
            "DDIMScheduler",
            "DDPMScheduler",
            "EulerDiscreteScheduler",
            "KDPM2DiscreteScheduler",
            *EITHER,
        ),
        DISCRETE,
    ),
    **dict.fromkeys(  # not finite, or far off, where the first step is a long one in sigma / alpha
        ("EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "PNDMScheduler"),
        DISCRETE | {"moderate-noise"},
    ),
    **dict.fromkeys(("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"), STRAIGHT),
}


class BorrowedSpec(SamplerSpec):
    """A scheduler of diffusers: `sampler = "diffusers:EulerDiscreteScheduler"`, with `config` passed on to it. It is given the levels of
    the model's schedule and eps (a velocity where it is one for flow matching), walks its own timesteps, and draws from our generators.
    Some schedulers serve flow matching only with `config = {use_flow_sigmas = true}`.
    """

    kind: Literal["diffusers"] = "diffusers"
    shorthand: ClassVar[str | None] = "scheduler"
    adaptations: ClassVar[tuple[tuple[str, ...], ...]] = (("sampler.config.use_flow_sigmas=true",),)
    scheduler: str
    config: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def examples(cls) -> dict[str, dict[str, Any]]:
        return {name.removesuffix("Scheduler"): {"scheduler": name} for name in KNOWN}

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.scheduler not in KNOWN:
            raise ValueError(
                f"no scheduler '{self.scheduler}' of diffusers is known here{suggest(self.scheduler, KNOWN)} (known: {listed(KNOWN)})"
            )
        return self

    @property
    def straight(self) -> bool:
        """Whether it walks the straight path of flow matching."""
        return KNOWN[self.scheduler] is STRAIGHT or (self.scheduler in EITHER and bool(self.config.get("use_flow_sigmas")))

    @property
    def requires_now(self) -> frozenset[str]:
        return STRAIGHT if self.straight else KNOWN[self.scheduler]

    def check_steps(self, steps: int) -> str | None:
        fewest = FEWEST.get(self.scheduler, 1)
        return f"{self.scheduler} takes at least {fewest} steps, {steps} asked; set sampling.steps={fewest}" if steps < fewest else None

    def looks(self, steps: int) -> int:
        """Return how often it looks in so many steps."""
        if self.scheduler in TWICE:
            return 2 * steps - 1
        return steps + RUNGE_KUTTA if self.scheduler == "PNDMScheduler" else steps

    def build(self) -> Sampler:
        from ditzoo_diffusion.borrowed import Borrowed

        return Borrowed(self)
