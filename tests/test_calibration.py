"""Calibration: the errors are those of real runs, the table is the best one, and it serves what it says."""

from __future__ import annotations

import itertools
import json
import random

import pytest
import torch
from conftest import refused, run_ditzoo, tiny, wake
from ditzoo_dynamic.budget import Choice, cheapest
from ditzoo_dynamic.calibration import Rehearsal, calibrated
from ditzoo_dynamic.planned import Planned

from ditzoo.assemble import build, load
from ditzoo.errors import SamplingError

DEPTH = 6


@pytest.fixture(scope="module")
def model(zoo):
    data = tiny(backbone={"depth": DEPTH}, exits={"kind": "offset", "at": [2, 4]}, guidance={"scale": 2.0}, sampling={"steps": 8})
    return wake(build(zoo.model(data))).requires_grad_(False)


def test_the_best_table_under_a_budget_is_found():
    draw = random.Random(0)
    for _ in range(50):
        bins = [[Choice(draw.randint(1, 6), draw.random(), 0, 0) for _ in range(4)] for _ in range(4)]
        budget = draw.randint(4, 20)
        fitting = [way for way in itertools.product(*bins) if sum(one.cost for one in way) <= budget]
        found = cheapest(bins, budget)
        if not fitting:
            assert found is None
        else:
            assert sum(one.error for one in found) == pytest.approx(min(sum(one.error for one in way) for way in fitting))
            assert sum(one.cost for one in found) <= budget


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "heun", "dpm-solver++"])
def test_an_error_is_that_of_a_whole_run_that_sample_makes(zoo, model, sampler):
    spec = zoo.model(model.spec.model_dump() | {"sampler": sampler})
    rehearsal = Rehearsal(model, spec, 3, seed=5)
    policy = Planned((DEPTH, 2), (DEPTH, 4), (0.0, 0.5, 1.0))
    in_reach = Planned((2, DEPTH), (4, DEPTH), (0.0, 0.5, 1.0))
    assert rehearsal.error(in_reach, 0.5) == rehearsal.error(in_reach)  # looks before the bin are taken from the first run
    assert rehearsal.error(Planned((DEPTH,), (DEPTH,))) == 0
    own, ends = model.spec, []
    table = {
        "model": "tiny",
        "fingerprint": "",
        "edges": [0, 0.5, 1],
        "cond": [DEPTH, 2],
        "null": [DEPTH, 4],
        "budget": 1,
        "steps": [1, 99],
    }
    from ditzoo_dynamic.planned import fingerprint

    table |= {"fingerprint": fingerprint(model.backbone), "solver": spec.sampler.model_dump(mode="json")}
    table |= {name: getattr(spec, name).model_dump(mode="json") for name in ("schedule", "guidance")}
    early = {"kind": "early-exit", "inner": sampler, "policy": {"kind": "depth-table", "table": table}}
    for one in (sampler, early):
        model.spec = zoo.model(own.model_dump() | {"sampler": one})
        ends.append(model.sample(num_images=3, seed=5, output_type="latent").images)
    model.spec = own
    assert float((ends[1] - ends[0]).square().mean()) == pytest.approx(rehearsal.error(policy), rel=1e-4)


def test_a_table_is_better_than_one_depth_for_all_at_the_same_cost(model):
    table = calibrated(model, model.spec, bins=4, count=4, seed=1, quiet=True).table(2 / 3)
    assert table.figures["share_of_blocks"] <= 2 / 3 + 1e-9
    assert len(table.cond) == len(table.null) == 4
    rehearsal = Rehearsal(model, model.spec, 4, seed=1)
    uniform = rehearsal.error(Planned((4,), (4,)))
    assert table.figures["measured_mse"] == pytest.approx(rehearsal.error(Planned(table.cond, table.null, table.edges)))
    assert table.figures["measured_mse"] <= uniform
    whole = calibrated(model, model.spec, bins=4, count=2, quiet=True).table(1.0)
    assert (set(whole.cond), set(whole.null)) == ({DEPTH}, {DEPTH})
    assert whole.figures["measured_mse"] == 0
    measured = calibrated(model, model.spec, bins=2, count=2, quiet=True)
    with pytest.raises(SamplingError, match=r"budget 0.2 is below the least that the exits of 'tiny' allow, 0.33 of all blocks"):
        measured.table(0.2)


def test_looks_without_guidance_have_one_depth_to_choose(zoo, model):
    spec = zoo.model(model.spec.model_dump() | {"guidance": {"scale": 2.0, "interval": [0.4, 0.8]}})
    table = calibrated(model, spec, bins=8, count=2, quiet=True).table(0.5)
    for (low, high), null in zip(itertools.pairwise(table.edges), table.null, strict=True):
        if high < 0.4 or low > 0.8:
            assert null == DEPTH  # no unconditional branch is run there, so none is cut short


def test_the_command_writes_a_table_that_sample_takes(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    name = f"local-dir:{tmp_path / 'model'}"
    done = run_ditzoo("calibrate", name, "--budget", "0.6", "--bins", "3", "--count", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "tiny.depths.json" in done.stdout
    written = json.loads((tmp_path / "tiny.depths.json").read_text())
    next_line = next(line for line in done.stderr.splitlines() if line.startswith("next: "))
    setting = next_line.split("--set ", 1)[1].strip('"')
    done = run_ditzoo("sample", name, "--set", setting, "-n", "2", "-o", tmp_path / "out", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    sidecar = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert written["cond"] == sidecar["spec"]["sampler"]["policy"]["table"]["cond"]
    with torch.no_grad():
        model.backbone.blocks[0].mlp.fc1.weight.mul_(1.01)
    model.save_pretrained(tmp_path / "model")
    done = run_ditzoo("sample", name, "--set", setting, "-n", "2", "-o", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 2
    assert "the table of depths was calibrated on weights" in done.stderr


def test_the_table_that_ships_is_of_the_weights_beside_it_and_serves_steps_near_its_own(zoo):
    model = load("fashion-dit-exits.early", zoo=zoo)
    drawn = model.sample(num_images=10, seed=3, output_type="latent")
    assert drawn.ledger.block_evals == round(0.65 * 10 * 25 * 2 * 8)
    logits = zoo.part("features", "fashion-cnn").build().see(drawn.images).logits
    assert int((logits.argmax(1) == torch.arange(10)).sum()) >= 8
    for steps in (10, 50):
        with pytest.raises(SamplingError, match=f"it serves 20 to 31 steps, and sampling.steps is {steps}; calibrate anew"):
            model.sample(num_images=1, num_inference_steps=steps)


def test_what_cannot_be_calibrated_is_told(capsys, monkeypatch):
    early = "sampler={kind='early-exit', inner='ddim'}"
    assert "leaves early already" in refused(capsys, monkeypatch, "calibrate", "fashion-dit", "--set", early)
    assert "'fashion-dit' has no exits to choose among" in refused(
        capsys, monkeypatch, "calibrate", "fashion-dit", "--set", "sampler.kind=ddim"
    )
