"""Specs of the samplers of this plugin. `clip` bounds the data that the network predicts: 1 for pixels, None for latents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

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

    @property
    def requires_now(self) -> frozenset[str]:
        needs = {"small": set(), "large": {"variance-preserving"}, "learned": {"variance-preserving", "learned-variance"}}
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

    def build(self) -> Sampler:
        from ditzoo_diffusion.stochastic import DDIM

        return DDIM(self.clip, self.keep_eps, self.eta)


class HeunSpec(SamplerSpec):
    """Heun's second-order method on the probability-flow ODE (Karras et al. 2022); two evaluations a step, one in the last."""

    kind: Literal["heun"] = "heun"
    clip: float | None = Field(None, gt=0)

    def build(self) -> Sampler:
        from ditzoo_diffusion.ode import Heun

        return Heun(self.clip)
