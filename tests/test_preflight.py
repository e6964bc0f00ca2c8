"""Compositions that cannot work are refused before torch is imported or a byte fetched, with both values and a way out."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from conftest import tiny

from ditzoo.errors import SpecError

WEIGHTS = {"file": "w.safetensors", "schedule": {"kind": "linear"}, "latent": {"channels": 3}}


@pytest.mark.parametrize(
    ("changes", "sentences"),
    [
        (
            {"weights": WEIGHTS, "schedule": {"kind": "flow"}},
            [
                "schedule.kind: schedule 'flow' (flow, predicts velocity) does not fit these weights",
                "'linear' (vp, predicts eps); set schedule.kind=linear",
            ],
        ),
        (
            {"weights": WEIGHTS, "schedule": {"prediction": "v"}},
            ["schedule.prediction=v but the weights were trained with eps; set schedule.prediction=eps"],
        ),
        ({"weights": WEIGHTS, "schedule": {"train_steps": 500}}, ["schedule.train_steps=500 but the weights were trained with 1000"]),
        ({"weights": WEIGHTS, "codec": {"scale": 0.5}}, ["codec.scale=0.5 but the weights were trained on latents with scale 1"]),
        ({"weights": {**WEIGHTS, "file": "../../secret.safetensors"}}, ["'../../secret.safetensors' leaves its place"]),
        ({"weights": {**WEIGHTS, "file": "/etc/passwd"}}, ["'/etc/passwd' leaves its place"]),
        ({"weights": {**WEIGHTS, "file": None}}, ["name a file beside the spec, or a hub repo"]),
        ({"weights": {**WEIGHTS, "revision": "main"}}, ["revision 'main' without a repo"]),
        (
            {"codec": {"kind": "autoencoder-kl", "channels": 16}},
            ["codec 'autoencoder-kl' makes 16-channel latents and backbone 'dit' takes 3; set codec.channels=3 or backbone.in_channels=16"],
        ),
        ({"sampling": {"height": 16}}, ["the position table serves latents of 8x8 alone, not 16x8; set backbone.positions=interpolate"]),
        (
            {"sampling": {"height": 20}, "codec": {"kind": "autoencoder-kl", "channels": 3}},
            ["20 pixels are not a multiple of codec.factor=8; nearest: 16, 24"],
        ),
        ({"sampling": {"num_frames": 4}}, ["'tiny' makes pictures, not video"]),
        ({"sampling": {"steps": 1001}}, ["1001 steps asked of schedule 'linear', which has 1000"]),
        ({"sampling": {"steps": 0}}, ["sampling.steps", "found 0"]),
        ({"guidance": {"scale": 2.0}, "prompt": {"dropout": 0.0}}, ["guidance.scale=2 needs a null prompt"]),
        (
            {"guidance": {"scale": 2.0}, "prompt": {"kind": "none"}},
            ["guidance.scale=2 needs a null prompt, and prompt 'none' as declared has none"],
        ),
        ({"guidance": {"channels": 4}}, ["guidance.channels=4 but latents have 3"]),
        ({"guidance": {"interval": [0.7, 0.2]}}, ["interval must rise within 0 (data) to 1 (noise), found (0.7, 0.2)"]),
        (
            {"sampler": {"kind": "ddpm", "variance": "learned"}},
            ["sampler 'ddpm' requires 'learned-variance', which none of the other parts provides"],
        ),
        ({"sampler": {"kind": "ddpm", "variance": "large"}, "schedule": {"kind": "flow"}}, ["requires 'variance-preserving'"]),
        ({"backbone": {"width": 33}}, ["width=33 is not divisible by heads=2; nearest widths: 32, 34"]),
        ({"backbone": {"heads": 1, "width": 30}}, ["width=30 is not divisible by 4"]),
        ({"backbone": {"patch": 3}}, ["patch=3 does not divide the latent 8x8; nearest latent: 9x9"]),
        ({"backbone": {"input_size": [8]}}, ["(height, width), found 8"]),
        ({"backbone": {"depth": 0}}, ["backbone.depth", "greater than 0, found 0"]),
        ({"backbone": {"kind": "uvit"}}, ["no installed plugin offers backbone kind 'uvit'; installed: dit, mmdit"]),
        ({"backbone": {"sise": "S"}}, ["unknown field 'sise'; did you mean 'size'?"]),
        ({"sampler": {"kind": "dimd"}}, ["no installed plugin offers sampler kind 'dimd'", "did you mean 'ddim'?"]),
        ({"sampler": {"eta": 2.0}}, ["sampler.eta", "less than or equal to 1, found 2.0"]),
        ({"prompt": {"classes": 5, "names": ["a"]}}, ["classes=5 but 1 names"]),
        ({"conditioning": 3}, ["conditioning needs a table with a kind, found 3"]),
    ],
)
def test_refused(zoo, changes, sentences):
    with pytest.raises(SpecError) as caught:
        zoo.model(tiny(**changes))
    for sentence in sentences:
        assert sentence in str(caught.value)


def test_every_problem_is_told_at_once_on_a_line_of_its_own(zoo):
    with pytest.raises(SpecError) as caught:
        zoo.model(tiny(codec={"channels": 1}, guidance={"channels": 9}, sampling={"steps": 2000}), source="file.toml")
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["codec.channels", "sampling.steps", "guidance.channels"]
    assert all(line.startswith("file.toml: ") for line in lines)


def test_what_may_differ_from_training_may(zoo):
    zoo.model(tiny(weights=WEIGHTS, schedule={"spacing": "trailing"}, sampler={"kind": "heun"}, guidance={"scale": 3.0}))


@pytest.mark.parametrize(
    "settings",
    [
        ["schedule.kind=flow"],
        ["codec.channels=16"],
        ["sampling.height=512"],
        ["backbone.patch=3"],
        ["nothing=1"],
    ],
)
def test_refusals_import_no_torch_and_fetch_nothing(settings):
    code = (
        "import sys, json\nfrom ditzoo.zoo import Zoo\nfrom ditzoo.errors import SpecError\n"
        f"try:\n    Zoo.installed().spec('dit-xl-2-256', {settings!r})\n    told = None\n"
        "except SpecError as error:\n    told = str(error)\n"
        "print(json.dumps([told, sorted({'torch', 'diffusers', 'huggingface_hub', 'numpy'} & set(sys.modules))]))"
    )
    told, imported = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert told
    assert imported == []
