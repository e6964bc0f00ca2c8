"""Solvers against a Gaussian mixture, whose exact denoiser is known: their orders, and diffusers' steps under the same noise and grid."""

from __future__ import annotations

import math

import pytest
import torch

from ditzoo.errors import SamplingError
from ditzoo.noise import Noise
from ditzoo.testing.oracle import Window, distribution, ends, mixture_denoiser

PATHS = {
    "linear": {"kind": "linear", "train_steps": 100_000, "beta_start": 1e-6, "beta_end": 2e-4},  # fine enough to be smooth
    "cosine": {"kind": "cosine", "train_steps": 100_000},
    "flow": {"kind": "flow"},
    "gvp": {"kind": "gvp"},
}
ORDERS = {
    "euler": ({"kind": "euler"}, 1),
    "ddim": ({"kind": "ddim"}, 1),
    "heun": ({"kind": "heun"}, 2),
    "heun along noise": ({"kind": "heun", "along": "noise"}, 2),
    "heun along path": ({"kind": "heun", "along": "path"}, 2),
    "ab2": ({"kind": "ab2"}, 2),
    "ab2 along data": ({"kind": "ab2", "along": "data"}, 2),
    "dpm-solver++ 1": ({"kind": "dpm-solver++", "order": 1}, 1),
    "dpm-solver++ 2": ({"kind": "dpm-solver++"}, 2),
    "dpm-solver++ 3": ({"kind": "dpm-solver++", "order": 3}, 3),
    "unipc 1": ({"kind": "unipc", "order": 1}, 2),  # the corrector adds an order
    "unipc 2": ({"kind": "unipc"}, 3),
    "unipc 3": ({"kind": "unipc", "order": 3}, 4),
}
X = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]


def walked(zoo, sampler, schedule, steps, x=X):
    noise = Noise.seeded(0, range(len(x))) if len(x) < 100 else Noise([torch.Generator().manual_seed(0)], shared=True)
    *_, end = zoo.part("sampler", sampler).build().trajectory(mixture_denoiser(schedule), x, schedule, steps, noise)
    return end


@pytest.fixture(scope="module", params=PATHS)
def window(request, zoo):
    """A path walked from t = 0.8 to 0.1, and where the ODE ends."""
    found = Window(zoo.part("schedule", PATHS[request.param]).build(), 0.8, 0.1)
    return found, walked(zoo, {"kind": "adaptive", "rtol": 1e-10, "atol": 1e-10}, found, 1), request.param


@pytest.mark.parametrize("case", ORDERS)
def test_the_error_falls_with_the_order_that_is_promised(zoo, window, case):
    sampler, order = ORDERS[case]
    window, exact, path = window
    errors = [float((walked(zoo, sampler, window, steps) - exact).square().mean().sqrt()) for steps in (40, 80, 160)]
    measured = [math.log2(errors[i] / errors[i + 1]) for i in range(2)]
    assert measured[-1] > order - 0.1 if order < 3 else measured[-1] > order - 0.2, f"{case} on {path}: {measured}"
    assert measured[-1] < order + 0.5, f"{case} on {path}: {measured}"


@pytest.fixture(scope="module", params=["linear", "cosine", "flow", "gvp", "zero"])
def whole(request, zoo):
    kinds = {"zero": {"kind": "cosine", "zero_snr": True, "prediction": "v"}}
    schedule = zoo.part("schedule", kinds.get(request.param, {"kind": request.param})).build()
    return schedule, walked(zoo, {"kind": "adaptive", "rtol": 1e-7, "atol": 1e-7}, schedule, 4)


@pytest.mark.parametrize("case", [case for case in ORDERS if case != "heun along noise"])
def test_every_solver_ends_where_the_ode_does_from_pure_noise_to_data(zoo, whole, case):
    """Over the whole path, singular ends included: alpha is 0 at its beginning or nearly so, and sigma at its end."""
    schedule, exact = whole
    found = walked(zoo, ORDERS[case][0], schedule, 300)
    assert torch.isfinite(found).all()
    assert float((found - exact).square().mean().sqrt()) < 0.02


@pytest.mark.parametrize("case", ["linspace", "trailing", "leading", "karras", "beta"])
@pytest.mark.parametrize("path", ["linear", "flow"])
def test_every_spacing_falls_to_zero_and_leads_to_the_same_end(zoo, case, path):
    if (case, path) == ("leading", "flow"):
        with pytest.raises(SamplingError, match="'leading' walks trained steps, and this schedule's time is continuous"):
            zoo.part("schedule", {"kind": "flow", "spacing": "leading"}).build().times(10)
        return
    schedule = zoo.part("schedule", {"kind": path, "spacing": case}).build()
    times = schedule.times(25)
    assert len(times) == 26
    assert times[-1] == 0
    assert (times.diff() < 0).all()
    first = schedule.times(1)
    assert len(first) == 2
    exact = walked(zoo, {"kind": "adaptive", "rtol": 1e-6, "atol": 1e-6}, Window(schedule, float(times[0]), 0.0), 4)
    errors = [float((walked(zoo, "heun", schedule, steps) - exact).square().mean().sqrt()) for steps in (12, 50)]
    assert errors[1] < 0.5 * errors[0]
    assert errors[1] < 0.05


def test_karras_levels_are_the_papers(zoo):
    """Eq. 5 of Karras et al. 2022, in sigma / alpha."""
    spacing = {"kind": "karras", "sigma_min": 0.02, "sigma_max": 40.0}
    schedule = zoo.part("schedule", {"kind": "linear", "spacing": spacing}).build()
    alpha, sigma = schedule.alpha_sigma(schedule.times(12)[:-1])
    i = torch.arange(12, dtype=torch.float64) / 11
    torch.testing.assert_close(sigma / alpha, (40 ** (1 / 7) + i * (0.02 ** (1 / 7) - 40 ** (1 / 7))) ** 7, rtol=1e-5, atol=0)


def test_beta_times_are_the_quantiles(zoo):
    """Of the arcsine law, whose quantiles are sin^2(pi s / 2), and of beta(2, 5), whose distribution is 1 - (1 - x)^5 (1 + 5 x)."""
    shares = torch.linspace(1, 0, 21, dtype=torch.float64)

    def times(a, b):
        return zoo.part("schedule", {"kind": "flow", "spacing": {"kind": "beta", "a": a, "b": b}}).build().times(20)

    torch.testing.assert_close(times(0.5, 0.5), (shares * math.pi / 2).sin() ** 2, atol=1e-6, rtol=0)
    found = times(2.0, 5.0)
    torch.testing.assert_close(1 - (1 - found) ** 5 * (1 + 5 * found), shares, atol=1e-6, rtol=0)


def theirs(name, schedule, steps, x, **config):
    """Walk a scheduler of diffusers on the exact eps (or velocity) of the mixture, with nothing of ours but the levels."""
    import diffusers

    straight = name.startswith("FlowMatch") or config.get("use_flow_sigmas")
    scheduler = getattr(diffusers, name)(**config)
    if straight:
        scheduler.set_timesteps(sigmas=schedule.times(steps)[:-1].numpy())
    else:
        scheduler.set_timesteps(steps)
    look, generators = mixture_denoiser(schedule), list(Noise.seeded(0, range(len(x))).generators)
    x = x if straight else x * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        seen = look(x if straight else scheduler.scale_model_input(x, t), (t.double() if straight else t.double() + 1) / 1000)
        drawn = {"generator": generators} if name in ("DDPMScheduler",) else {}
        x = scheduler.step(seen.eps - seen.x0 if straight else seen.eps, t, x, **drawn).prev_sample
    return x


BETAS = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "timestep_spacing": "trailing"}
MULTI = {**BETAS, "final_sigmas_type": "zero"}
PAIRS = {
    "ddim": ("ddim", "linear", "DDIMScheduler", {**BETAS, "clip_sample": False, "set_alpha_to_one": True}),
    "ddpm": ("ddpm", "linear", "DDPMScheduler", {**BETAS, "clip_sample": False, "variance_type": "fixed_small"}),
    "euler": ("euler", "linear", "EulerDiscreteScheduler", BETAS),
    "heun": ({"kind": "heun", "along": "noise"}, "linear", "HeunDiscreteScheduler", BETAS),
    "dpm-solver++ 2M": ("dpm-solver++", "linear", "DPMSolverMultistepScheduler", {**MULTI, "algorithm_type": "dpmsolver++"}),
    "unipc": ("unipc", "linear", "UniPCMultistepScheduler", MULTI),
    "flow euler": ("euler", "flow", "FlowMatchEulerDiscreteScheduler", {}),
}


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("case", PAIRS)
def test_diffusers_takes_the_same_steps(zoo, case, steps):
    sampler, path, name, config = PAIRS[case]
    schedule = zoo.part("schedule", {"kind": path, "spacing": "trailing"}).build()
    x = torch.randn(16, 1, 1, 1, generator=torch.Generator().manual_seed(1))
    ours = walked(zoo, sampler, schedule, steps, x)
    found = theirs(name, schedule, steps, x, **config)
    assert (ours - found).abs().max() < 1e-4, (ours - found).abs().max()


@pytest.mark.parametrize("case", PAIRS)
def test_borrowed_from_diffusers_it_takes_the_same_steps_too(zoo, case):
    sampler, path, name, config = PAIRS[case]
    schedule = zoo.part("schedule", {"kind": path, "spacing": "trailing"}).build()
    x = torch.randn(16, 1, 1, 1, generator=torch.Generator().manual_seed(1))
    ours = walked(zoo, sampler, schedule, 20, x)
    more = {
        name: value
        for name, value in config.items()
        if name in ("final_sigmas_type", "algorithm_type", "set_alpha_to_one", "variance_type")
    }
    found = walked(zoo, {"kind": "diffusers", "scheduler": name, "config": more}, schedule, 20, x)
    assert (ours - found).abs().max() < 1e-4, (ours - found).abs().max()


@pytest.mark.parametrize(
    "name",
    ["DDIM", "EulerAncestralDiscrete", "HeunDiscrete", "KDPM2Discrete", "PNDM", "DEISMultistep", "DPMSolverSinglestep"],
)
def test_a_borrowed_scheduler_ends_where_the_data_are(zoo, name):
    schedule = zoo.part("schedule", {"kind": "linear", "spacing": "trailing"}).build()
    x = torch.randn(500, 1, 1, 1, generator=torch.Generator().manual_seed(2))
    sampler = zoo.part("sampler", f"diffusers:{name}Scheduler").build()
    steps = list(sampler.trajectory(mixture_denoiser(schedule), x, schedule, 30, Noise.seeded(0, range(500))))
    assert len(steps) == 30
    mean, deviation = ends()
    assert float(steps[-1].mean()) == pytest.approx(mean, abs=0.15)
    assert float(steps[-1].std()) == pytest.approx(deviation, rel=0.1)


@pytest.mark.parametrize(
    "sampler",
    [
        {"kind": "ddpm"},
        {"kind": "ddim", "eta": 0.5},
        {"kind": "dpm-solver++", "sde": True},
        {"kind": "churn"},
        {"kind": "churn", "order": 1, "churn": 10.0},
        {"kind": "sde"},
        {"kind": "sde", "diffusion": "constant"},
        {"kind": "adaptive"},
        {"kind": "unipc", "order": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["linear", "cosine", "flow", "gvp", "edm"])
def test_samples_are_distributed_as_the_data(zoo, path, sampler):
    """Mean, deviation and the whole distribution function of 4,000 samples against the mixture's."""
    schedule = zoo.part("schedule", path).build()
    noise = torch.randn(3000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = schedule.start(noise, schedule.times(100)[0])
    found = walked(zoo, sampler, schedule, 100, x)
    mean, deviation = ends()
    assert float(found.mean()) == pytest.approx(mean, abs=0.06)
    assert float(found.std()) == pytest.approx(deviation, rel=0.07)
    ordered = found.flatten().sort().values
    apart = (distribution(ordered) - (torch.arange(3000) + 0.5) / 3000).abs().max()
    assert float(apart) < 0.04  # Kolmogorov's 99 % bound for this count is 0.03; steps add a little
