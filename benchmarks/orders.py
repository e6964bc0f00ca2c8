"""Measured orders of convergence on a Gaussian mixture, whose exact denoiser is known, on every path: `python benchmarks/orders.py`.

The error is that of the ODE's end, from t = 0.8 to 0.1, against Dormand and Prince at 1e-10; an order is the logarithm to base 2 of the
ratio of the errors in 80 and 160 steps.
"""

from __future__ import annotations

import math

import torch

from ditzoo.noise import Noise
from ditzoo.testing.oracle import Window, mixture_denoiser
from ditzoo.zoo import Zoo

PATHS = {
    "linear": {"kind": "linear", "train_steps": 100_000, "beta_start": 1e-6, "beta_end": 2e-4},
    "cosine": {"kind": "cosine", "train_steps": 100_000},
    "flow": {"kind": "flow"},
    "gvp": {"kind": "gvp"},
    "edm": {"kind": "edm"},
}
SAMPLERS = {
    "euler": {"kind": "euler"},
    "ddim": {"kind": "ddim"},
    **{f"heun along {along}": {"kind": "heun", "along": along} for along in ("data", "noise", "path")},
    **{f"ab2 along {along}": {"kind": "ab2", "along": along} for along in ("data", "noise", "path")},
    **{f"dpm-solver++ {order}": {"kind": "dpm-solver++", "order": order} for order in (1, 2, 3)},
    **{f"unipc {order}": {"kind": "unipc", "order": order} for order in (1, 2, 3)},
}
STEPS = (80, 160)


def main() -> None:
    zoo, x = Zoo.installed(), torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]

    def end(sampler: object, schedule: Window, steps: int) -> torch.Tensor:
        built = zoo.part("sampler", sampler).build()  # type: ignore[attr-defined]
        *_, last = built.trajectory(mixture_denoiser(schedule), x, schedule, steps, Noise.seeded(0, range(len(x))))
        found: torch.Tensor = last
        return found

    windows = {name: Window(zoo.part("schedule", data).build(), 0.8, 0.1) for name, data in PATHS.items()}  # type: ignore[attr-defined]
    exact = {name: end({"kind": "adaptive", "rtol": 1e-10, "atol": 1e-10}, window, 1) for name, window in windows.items()}
    print(f"| order (error in {STEPS[0]} steps) | {' | '.join(PATHS)} |")
    print(f"| --- |{' --: |' * len(PATHS)}")
    for name, sampler in SAMPLERS.items():
        cells = []
        for path, window in windows.items():
            errors = [float((end(sampler, window, steps) - exact[path]).square().mean().sqrt()) for steps in STEPS]
            cells.append(f"{math.log2(errors[0] / errors[1]):.2f} ({errors[0]:.1e})")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
