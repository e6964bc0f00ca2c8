"""The matrix: no pair that runs gives a wrong answer, what cannot be is refused, a stranger's parts show up, the docs have the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import run_ditzoo, tiny

from ditzoo.errors import DitzooError
from ditzoo.matrix import matrix, table
from ditzoo.noise import Noise
from ditzoo.testing.oracle import ends, mixture_denoiser
from ditzoo.zoo import Zoo

COUNT = 1500
ALLOWED = {40: (0.03, 0.12), 15: (0.2, 0.45)}  # by steps: how far mean (beyond what the count explains) and deviation may be off
# each pair once: the exact denoiser stands in for the backbone
CELLS = list({(cell.schedule, cell.sampler): cell for cell in matrix(Zoo.installed()) if cell.verdict != "refused"}.values())


@pytest.mark.parametrize("steps", ALLOWED)
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.sampler} on {cell.schedule}")
def test_every_pair_that_is_not_refused_draws_from_the_data(cell, steps):
    """Samples by the exact denoiser have the data's mean and deviation, as near as their count allows; in few steps roughly."""
    schedule, sampler = cell.spec.schedule.build(), cell.spec.sampler.build()
    exact = mixture_denoiser(schedule)

    def denoise(x, t):
        seen = exact(x, t)
        return (
            seen._replace(variance=torch.zeros_like(x)) if hasattr(seen, "_replace") else type(seen)(seen.x0, seen.eps, torch.zeros_like(x))
        )

    noise = Noise([torch.Generator().manual_seed(3)], shared=True)
    x = noise.draw(torch.empty(COUNT, 1, 1, 1))
    *_, found = sampler.trajectory(denoise, schedule.start(x, schedule.times(steps)[0]), schedule, steps, noise)
    mean, deviation = ends()
    assert float(found.mean()) == pytest.approx(mean, abs=4 * deviation / COUNT**0.5 + ALLOWED[steps][0])
    assert float(found.std()) == pytest.approx(deviation, rel=ALLOWED[steps][1])


def test_the_documented_table_is_the_computed_one(zoo):
    text = (Path(__file__).parent.parent / "docs" / "samplers.md").read_text()
    shown = text.split("<!-- ditzoo matrix -->\n", 1)[1].split("<!-- end -->", 1)[0].strip()
    cells = matrix(zoo)
    assert shown == "\n\n".join(table(cells, backbone) for backbone in dict.fromkeys(cell.backbone for cell in cells)).strip()


def test_the_command_tells_and_runs_every_pair():
    done = run_ditzoo("matrix", "--run", "--json")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    cells = json.loads(done.stdout)
    assert {cell["verdict"] for cell in cells} == {"ok", "adapted", "refused"}
    assert all(cell["ran"] == "ran" for cell in cells if cell["verdict"] != "refused")
    (learned,) = [cell for cell in cells if (cell["backbone"], cell["sampler"], cell["schedule"]) == ("dit", "ddpm learned", "linear")]
    assert learned["why"] == "backbone.learn_sigma=true"


def test_a_strangers_backbone_is_in_it(strangers_zoo):
    cells = matrix(strangers_zoo)
    assert {cell.backbone for cell in cells} == {"dit", "toy-two-stream"}
    assert {cell.verdict for cell in cells if cell.backbone == "toy-two-stream"} == {"ok", "adapted", "refused"}


# The three of field notes that pass in silence elsewhere, and more: what is laid over a tiny DiT on 8x8 RGB, and what is told.
REFUSED = {
    "flow UniPC on an eps model": (
        {"sampler": {"kind": "diffusers", "scheduler": "UniPCMultistepScheduler", "config": {"use_flow_sigmas": True}}},
        "requires 'straight-path'",
    ),
    "16-channel codec on a 3-channel model": ({"codec": {"channels": 16}}, "makes 16-channel latents and backbone 'dit' takes 3"),
    "latent of another shape": ({"sampling": {"height": 32, "width": 8}}, "32x8"),
    "flow euler of diffusers on cosine": (
        {"schedule": {"kind": "cosine"}, "sampler": "diffusers:FlowMatchEulerDiscreteScheduler"},
        "requires 'straight-path'",
    ),
    "flow heun of diffusers on gvp": (
        {"schedule": {"kind": "gvp"}, "sampler": "diffusers:FlowMatchHeunDiscreteScheduler"},
        "straight-path",
    ),
    "DDIM of diffusers on flow": ({"schedule": {"kind": "flow"}, "sampler": "diffusers:DDIMScheduler"}, "requires 'discrete-time'"),
    "PNDM of diffusers on edm": ({"schedule": {"kind": "edm"}, "sampler": "diffusers:PNDMScheduler"}, "requires 'discrete-time'"),
    "euler of diffusers on zero SNR": (
        {"schedule": {"kind": "linear", "zero_snr": True, "prediction": "v"}, "sampler": "diffusers:EulerDiscreteScheduler"},
        "requires 'signal-at-start'",
    ),
    "ancestral euler of diffusers on cosine": (
        {"schedule": {"kind": "cosine"}, "sampler": "diffusers:EulerAncestralDiscreteScheduler"},
        "requires 'moderate-noise'",
    ),
    "unknown scheduler": ({"sampler": "diffusers:EulerDiscretScheduler"}, "did you mean 'EulerDiscreteScheduler'"),
    "eps from pure noise": ({"schedule": {"kind": "linear", "zero_snr": True}}, "where eps tells nothing of the data; set prediction=v"),
    "score from pure noise": ({"schedule": {"kind": "linear", "zero_snr": True, "prediction": "score"}}, "set prediction=v"),
    "heun along noise on flow": (
        {"schedule": {"kind": "flow"}, "sampler": {"kind": "heun", "along": "noise"}},
        "requires 'moderate-noise'",
    ),
    "large variance on flow": (
        {"schedule": {"kind": "flow"}, "sampler": {"kind": "ddpm", "variance": "large"}},
        "requires 'variance-preserving'",
    ),
    "learned variance that is not learned": ({"sampler": {"kind": "ddpm", "variance": "learned"}}, "requires 'learned-variance'"),
    "learned variance in continuous time": (
        {"schedule": {"kind": "gvp"}, "sampler": {"kind": "ddpm", "variance": "learned"}, "backbone": {"learn_sigma": True}},
        "requires 'discrete-time'",
    ),
    "third order in two steps": (
        {"sampler": {"kind": "dpm-solver++", "order": 3}, "sampling": {"steps": 2}},
        "of order 3 needs 3 steps to have it, 2 asked; set sampler.order=2",
    ),
    "second order in one step": ({"sampler": {"kind": "unipc"}, "sampling": {"steps": 1}}, "of order 2 needs 2 steps"),
    "third order of an SDE": ({"sampler": {"kind": "dpm-solver++", "order": 3, "sde": True}}, "the stochastic form has orders 1 and 2"),
    "more steps than there are": ({"sampling": {"steps": 1001}}, "1001 steps asked of schedule 'linear', which has 1000"),
    "EDM's ends the wrong way round": ({"schedule": {"kind": "edm", "sigma_min": 90.0}}, "sigma_min=90 is not below sigma_max=80"),
    "a velocity of no path": ({"schedule": {"kind": "flow", "prediction": "noise"}}, "schedule.prediction"),
    "an order that is none": ({"sampler": {"kind": "unipc", "order": 4}}, "sampler.order"),
    "guidance without a null": ({"prompt": {"dropout": 0.0}, "guidance": {"scale": 2.0}}, "needs a null prompt"),
    "guidance of more channels": ({"guidance": {"scale": 2.0, "channels": 4}}, "guidance.channels=4 but latents have 3"),
    "negative guidance": ({"guidance": {"scale": -1.0}}, "guidance.scale"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_go_wrong_is_refused_before_anything_is_built(zoo, case):
    changes, told = REFUSED[case]
    with pytest.raises(DitzooError) as refusal:
        zoo.model(tiny(**changes))
    assert told in str(refusal.value)


def test_a_schedule_other_than_the_trained_one_is_refused_with_the_trained_one(zoo):
    for setting in ("schedule.kind=flow", "schedule.kind=edm", "schedule.prediction=eps", "schedule.zero_snr=true"):
        with pytest.raises(DitzooError, match="schedule"):
            zoo.spec("fashion-dit", [setting])
    for setting in ("schedule.spacing=karras", "sampler=diffusers:EulerDiscreteScheduler", "sampler.kind=unipc"):
        zoo.spec("fashion-dit", [setting])
