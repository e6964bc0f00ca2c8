"""Specs of the samplers of this plugin. `clip` bounds the data that the network predicts: 1 for pixels, None for latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ditzoo.specs import SamplerSpec

if TYPE_CHECKING:
    from ditzoo.interfaces import Sampler


class DDPMSpec(SamplerSpec):
    """Ancestral sampling (Ho et al. 2020). `variance`: the posterior's (`small`), beta (`large`), or what the network
    learned between them (`learned`, Nichol and Dhariwal 2021). The latter two are bounds on a variance-preserving path alone.
    """

    kind: Literal["ddpm"] = "ddpm"
    variance: Literal["small", "large", "learned"] = "small"
    clip: float | None = Field(None, gt=0)

    adaptations: ClassVar[tuple[tuple[str, ...], ...]] = (("backbone.learn_sigma=true",),)

    @classmethod
    def examples(cls) -> dict[str, dict[str, Any]]:
        return {"": {}, "large": {"variance": "large"}, "learned": {"variance": "learned"}}

    @property
    def requires_now(self) -> frozenset[str]:
        needs = {"small": set(), "large": {"variance-preserving"}, "learned": {"variance-preserving", "discrete-time", "learned-variance"}}
        return frozenset(needs[self.variance])

    def build(self) -> Sampler:
        from ditzoo_diffusion.stochastic import DDPM

        return DDPM(self.clip, variance=self.variance)


class DDIMSpec(SamplerSpec):
    """DDIM (Song et al. 2020). `eta` 0 is deterministic, 1 has the noise of ddpm's small variance.

    Where `clip` changes x_0, eps is taken anew from it, as guided-diffusion's code does; with `keep_eps` it stays what the
    network saw, as in diffusers.
    """

    kind: Literal["ddim"] = "ddim"
    eta: float = Field(0.0, ge=0, le=1)
    clip: float | None = Field(None, gt=0)
    keep_eps: bool = False

    @classmethod
    def examples(cls) -> dict[str, dict[str, Any]]:
        return {"": {}, "eta 1": {"eta": 1.0}}

    @property
    def promised_order(self) -> int | None:
        return 1 if self.eta == 0 else None

    def build(self) -> Sampler:
        from ditzoo_diffusion.stochastic import DDIM

        return DDIM(self.clip, self.keep_eps, self.eta)


class OnGridSpec(SamplerSpec):
    """Common fields of solvers of the probability-flow ODE. `along` is the variable that is walked: `data` (x_0 is the slope),
    `noise` (eps is, as Karras et al. 2022 and diffusers have it) or `path` (the straight path's velocity; flow matching's own).
    """

    along: Literal["data", "noise", "path"] = "data"
    clip: float | None = Field(None, gt=0)

    @property
    def requires_now(self) -> frozenset[str]:
        return frozenset({"moderate-noise"}) if self.along == "noise" else frozenset()


class EulerSpec(OnGridSpec):
    """Euler's method on the probability-flow ODE: first order, the same along every variable, and the same as ddim without noise."""

    kind: Literal["euler"] = "euler"

    @property
    def promised_order(self) -> int | None:
        return 1

    def build(self) -> Sampler:
        from ditzoo_diffusion.ode import Euler

        return Euler(self.along, self.clip)


class HeunSpec(OnGridSpec):
    """Heun's second-order method on the probability-flow ODE (Karras et al. 2022); two evaluations a step, one in the last."""

    kind: Literal["heun"] = "heun"
    adaptations: ClassVar[tuple[tuple[str, ...], ...]] = (("sampler.along=path",),)

    @classmethod
    def examples(cls) -> dict[str, dict[str, Any]]:
        return {"": {}, "along noise": {"along": "noise"}, "along path": {"along": "path"}}

    @property
    def promised_order(self) -> int | None:
        return 2

    def build(self) -> Sampler:
        from ditzoo_diffusion.ode import Heun

        return Heun(self.along, self.clip)


class AB2Spec(OnGridSpec):
    """Adams and Bashforth's two-step method: second order with one evaluation a step."""

    kind: Literal["ab2"] = "ab2"
    along: Literal["data", "noise", "path"] = "path"

    @property
    def promised_order(self) -> int | None:
        return 2

    def build(self) -> Sampler:
        from ditzoo_diffusion.ode import AB2

        return AB2(self.along, self.clip)


class MultistepSpec(SamplerSpec):
    """Common fields of multistep solvers of a chosen order."""

    order: Literal[1, 2, 3] = 2
    clip: float | None = Field(None, gt=0)

    def check_steps(self, steps: int) -> str | None:
        if steps >= self.order:
            return None
        return (
            f"{self.kind} of order {self.order} needs {self.order} steps to have it, {steps} asked; set sampler.order={steps} or more steps"
        )


class DPMSolverSpec(MultistepSpec):
    """DPM-Solver++ (Lu et al. 2022), multistep, of order 1 to 3; `sde` is its stochastic form, of order 1 or 2."""

    kind: Literal["dpm-solver++"] = "dpm-solver++"
    sde: bool = False

    @classmethod
    def examples(cls) -> dict[str, dict[str, Any]]:
        return {"": {}, "order 3": {"order": 3}, "sde": {"sde": True}}

    @property
    def promised_order(self) -> int | None:
        return None if self.sde else self.order

    @model_validator(mode="after")
    def _order_of_sde(self) -> Self:
        if self.sde and self.order == 3:
            raise ValueError("the stochastic form has orders 1 and 2; set order=2, or sde=false")
        return self

    def build(self) -> Sampler:
        from ditzoo_diffusion.multistep import DPMSolver

        return DPMSolver(self.order, self.sde, self.clip)


class UniPCSpec(MultistepSpec):
    """UniPC (Zhao et al. 2023) with B(h) = e^h - 1: each look corrects the step before it and predicts the next."""

    kind: Literal["unipc"] = "unipc"

    @property
    def promised_order(self) -> int | None:
        return self.order + 1

    def build(self) -> Sampler:
        from ditzoo_diffusion.multistep import UniPC

        return UniPC(self.order, self.clip)


class AdaptiveSpec(SamplerSpec):
    """Dormand and Prince's fifth-order method on the probability-flow ODE, with steps of its own between the times of the schedule, as
    long as `rtol` and `atol` allow. One step length serves the whole batch, so a picture depends on its batch within the tolerance.
    """

    kind: Literal["adaptive"] = "adaptive"
    expected_failures: ClassVar[Mapping[str, str]] = {"counts its looks": "how many it takes is known afterwards"}
    rtol: float = Field(1e-3, gt=0)
    atol: float = Field(1e-3, gt=0)
    clip: float | None = Field(None, gt=0)

    def build(self) -> Sampler:
        from ditzoo_diffusion.adaptive import Adaptive

        return Adaptive(self.rtol, self.atol, self.clip)


class ChurnSpec(SamplerSpec):
    """The stochastic sampler of Karras et al. 2022 (algorithm 2): noise is added before a step, as much as `churn` / steps of the level
    where sigma / alpha lies within `interval`, and a Heun (`order` 2) or Euler step along the straight path goes from there.
    """

    kind: Literal["churn"] = "churn"
    churn: float = Field(40.0, ge=0)
    interval: tuple[float, float] = (0.05, 50.0)
    noise: float = Field(1.003, gt=0)
    order: Literal[1, 2] = 2
    clip: float | None = Field(None, gt=0)

    def build(self) -> Sampler:
        from ditzoo_diffusion.churn import Churn

        return Churn(self.churn, self.interval, self.noise, self.order, self.clip)


class SDESpec(SamplerSpec):
    """Euler and Maruyama on the reverse SDE whose diffusion is `scale` times sigma (`sigma`) or 1 (`constant`), as SiT samples
    (Ma et al. 2024, eq. 6): a DDIM step, half the diffusion times the score, and noise; the last step adds none.
    """

    kind: Literal["sde"] = "sde"
    diffusion: Literal["sigma", "constant"] = "sigma"
    scale: float = Field(1.0, ge=0)
    clip: float | None = Field(None, gt=0)

    def build(self) -> Sampler:
        from ditzoo_diffusion.churn import ReverseSDE

        return ReverseSDE(self.diffusion, self.scale, self.clip)
