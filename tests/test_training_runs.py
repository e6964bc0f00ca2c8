"""Runs that are told to stop, killed, shared out and watched: whatever happens between, the end is that of an unbroken run."""

from __future__ import annotations

import csv
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import tiny, wake
from runs import SEAMS, SKIPS, command, deciding, kill, same, same_end, started
from safetensors.torch import load_file

from ditzoo.assemble import build
from ditzoo.errors import SpecError, TrainingError
from ditzoo.noise import generator
from ditzoo.training.loop import prepare, train
from ditzoo.training.loss import Draws, diffusion_loss
from ditzoo.training.objective import drawn_times, weights
from ditzoo.training.recipe import read_recipe
from ditzoo.training.tables import Objective
from ditzoo.training.trainee import Trainee


@pytest.fixture(scope="module")
def unbroken(recipe, tmp_path_factory):
    folders = {}
    for processes in (1, 2):
        folders[processes] = tmp_path_factory.mktemp(f"unbroken{processes}")
        subprocess.run(command(recipe, folders[processes], *SKIPS, processes=processes), check=True, capture_output=True)
    return folders


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_random_moments_it_ends_as_the_unbroken_run(recipe, unbroken, tmp_path, processes):
    moments = random.Random(processes)
    kills = int(os.environ.get("DITZOO_TEST_KILLS", "2"))
    for turn in range(kills):
        running = started(recipe, tmp_path, processes, after=1 + 10 * turn // kills)
        time.sleep(moments.uniform(0, 0.05))
        kill(running)
    subprocess.run(command(recipe, tmp_path, *SKIPS, processes=processes), check=True, capture_output=True)
    same(tmp_path, unbroken[processes])


def test_some_steps_were_left_out(unbroken):
    assert 0 < sum(int(float(row["skipped"])) for row in deciding(unbroken[1])) < 20


@pytest.mark.parametrize("all_of_them", [False, True])
def test_sigterm_ends_with_a_checkpoint_and_zero(recipe, unbroken, tmp_path, all_of_them):
    settings = (*SKIPS, "length.workers=2") if all_of_them else SKIPS
    running = started(recipe, tmp_path, 1, after=2, settings=settings)
    if all_of_them:
        os.killpg(running.pid, signal.SIGTERM)  # as `timeout` and schedulers do: what reads for the run is told too
    else:
        running.send_signal(signal.SIGTERM)
    told = running.communicate()[1].decode()
    assert running.returncode == 0, told
    assert "told to stop after step" in told
    step = int(told.rsplit("after step ", 1)[1].split(";")[0])
    assert (tmp_path / f"checkpoint-{step}" / "state.json").is_file()
    assert not (tmp_path / "model").exists()
    subprocess.run(command(recipe, tmp_path, *settings), check=True, capture_output=True)
    same(tmp_path, unbroken[1])


def test_a_checkpoint_of_two_processes_goes_on_in_one_and_the_other_way(recipe, tmp_path):
    whole = tmp_path / "whole"
    subprocess.run(command(recipe, whole, *SEAMS), check=True, capture_output=True)
    for first, then in ((2, 1), (1, 2)):
        out = tmp_path / f"from{first}"
        running = started(recipe, out, first, after=5, settings=SEAMS)
        kill(running)
        subprocess.run(command(recipe, out, *SEAMS, processes=then), check=True, capture_output=True)
        same_end(out, whole)


def test_a_full_disk_leaves_the_last_checkpoint(recipe, zoo, tmp_path, monkeypatch):
    from ditzoo.errors import OutputError
    from ditzoo.training import checkpoint

    kept = checkpoint.save_weights
    calls = itertools.count()

    def full(*words, **named):
        if next(calls) == 8:  # the moments of the third checkpoint
            raise OSError(28, "No space left on device")
        return kept(*words, **named)

    monkeypatch.setattr(checkpoint, "save_weights", full)
    with pytest.raises(
        OutputError, match=r"cannot write .*checkpoint-15: .*No space left on device; the last whole checkpoint is .*checkpoint-10"
    ):
        train(read_recipe(str(recipe), zoo), tmp_path, quiet=True)
    assert sorted(path.name for path in tmp_path.glob("*checkpoint*")) == ["checkpoint-10", "checkpoint-5"]
    monkeypatch.undo()
    train(read_recipe(str(recipe), zoo), tmp_path, resume=True, quiet=True)


def test_a_step_whose_gradient_is_too_large_is_left_out_and_counted(recipe, zoo, tmp_path):
    train(read_recipe(str(recipe), zoo, ["optimizer.skip_above=1e9"]), tmp_path / "a", quiet=True)
    norms = [float(row["grad_norm"]) for row in deciding(tmp_path / "a")]
    limit = sorted(norms)[len(norms) // 2]
    train(read_recipe(str(recipe), zoo, [f"optimizer.skip_above={limit}", "optimizer.max_skipped=30"]), tmp_path / "b", quiet=True)
    left_out = [int(float(row["skipped"])) for row in deciding(tmp_path / "b")]
    assert 0 < sum(left_out) < 30
    assert [int(float(row["skipped"])) for row in deciding(tmp_path / "a")] == [0] * len(norms)
    with pytest.raises(TrainingError, match="3 steps in a row were left out, up to step 3: the gradient's norm is"):
        train(read_recipe(str(recipe), zoo, ["optimizer.skip_above=1e-9", "optimizer.max_skipped=3"]), tmp_path / "c", quiet=True)


def test_activations_computed_anew_give_the_same_gradients(zoo):
    model = wake(build(zoo.model(tiny()))).requires_grad_(True)
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([100.0, 700.0])
    found = []
    for segments in (0, 1, 2, 3):
        model.zero_grad()
        Trainee(model, segments=segments)(x, t, [1, 2], x, torch.ones(2), x)[0].square().mean().backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters()})
    assert all(torch.equal(found[0][name], other[name]) for other in found[1:] for name in found[0])


@pytest.mark.parametrize("segments", [0, 2])
def test_segments_decide_nothing_of_a_run(recipe, zoo, tmp_path, segments):
    short = ["length.steps=6", "optimizer.warmup=0"]
    whole = read_recipe(str(recipe), zoo, short)
    other = read_recipe(str(recipe), zoo, [*short, f"length.segments={segments}"])
    assert whole.digest() == other.digest()
    train(whole, tmp_path / "a", quiet=True)
    train(other, tmp_path / "b", quiet=True)
    a, b = (load_file(tmp_path / name / "model" / "model.safetensors") for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_min_snr_weighs_each_prediction_as_the_same_error_of_x0(zoo):
    """eps: min(SNR, 5) / SNR; v: min(SNR, 5) / (SNR + 1); x0: min(SNR, 5) (Hang et al. 2023, section 3.4)."""
    objective = Objective(weighting="min-snr")
    for kind in ("linear", "cosine"):
        t = torch.tensor([0.05, 0.3, 0.6, 0.9], dtype=torch.float64)
        for prediction in ("eps", "v", "x0"):
            schedule = zoo.part("schedule", {"kind": kind, "prediction": prediction}).build()
            alpha, sigma = schedule.alpha_sigma(t)
            snr = (alpha / sigma) ** 2
            bounded = snr.clamp(max=5)
            expected = {"eps": bounded / snr, "v": bounded / (snr + 1), "x0": bounded}[prediction]
            torch.testing.assert_close(weights(schedule, t, objective), expected)
            assert torch.equal(weights(schedule, t, Objective()), torch.ones(4, dtype=torch.float64))
    flow = zoo.part("schedule", "flow").build()
    t = torch.tensor([0.2, 0.5], dtype=torch.float64)
    snr = ((1 - t) / t) ** 2
    torch.testing.assert_close(weights(flow, t, objective), snr.clamp(max=5) * t**2)  # the velocity is off by 1 / sigma


def test_velocity_weighs_x0_and_eps_as_the_error_of_a_velocity(zoo):
    t = torch.tensor([0.05, 0.3, 0.9], dtype=torch.float64)
    expected = {"velocity": torch.ones_like(t), "x0": 1 / t**2, "eps": 1 / (1 - t) ** 2}  # v = (x_t - x0) / t = (eps - x_t) / (1 - t)
    for prediction, weight in expected.items():
        schedule = zoo.part("schedule", {"kind": "flow", "prediction": prediction}).build()
        torch.testing.assert_close(weights(schedule, t, Objective(weighting="velocity")), weight)
    near = weights(zoo.part("schedule", {"kind": "flow", "prediction": "x0"}).build(), t / 10, Objective(weighting="velocity"))
    assert near[0] == pytest.approx(400)


def test_a_weighted_loss_is_the_rows_loss_times_its_weight(zoo):
    model = wake(build(zoo.model(tiny()))).requires_grad_(False)
    schedule, latents = model.spec.schedule.build(), torch.randn(6, 3, 8, 8)
    draws, objective = Draws.of(latents, generator(2)), Objective(weighting="min-snr")

    def call(x, t, items, *_):
        return model(x, t, items)

    plain = diffusion_loss(model, call, schedule, latents, [0] * 6, draws)
    found = diffusion_loss(model, call, schedule, latents, [0] * 6, draws, objective)
    torch.testing.assert_close(found, plain * weights(schedule, schedule.draw(draws.time), objective).float())


def test_times_are_drawn_as_they_say():
    uniform = torch.rand(4096, generator=generator("times"), dtype=torch.float64)
    assert torch.equal(drawn_times(uniform, Objective()), uniform)
    spread = drawn_times(uniform, Objective(times="stratified"))
    assert torch.equal((spread * 4096).long(), torch.arange(4096))
    middle = drawn_times(uniform, Objective(times="logit-normal", mean=0.5, deviation=2.0))
    logits = torch.logit(middle)
    assert float(logits.mean()) == pytest.approx(0.5, abs=0.1)
    assert float(logits.std()) == pytest.approx(2.0, abs=0.1)


def test_validation_is_by_noise_level_and_the_same_each_time(recipe, zoo, tmp_path, idx_folder):
    validation = [f'validation={{data={{kind="fashion-mnist", split="test", folder="{idx_folder}"}}, every=10, items=16, bins=4}}']
    told = read_recipe(str(recipe), zoo, validation)
    train(told, tmp_path / "a", quiet=True)
    with (tmp_path / "a" / "validation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["10", "20", "30"]
    assert list(rows[0]) == ["step", "loss", "t_0_to_0.25", "t_0.25_to_0.5", "t_0.5_to_0.75", "t_0.75_to_1"]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    bins = [float(value) for name, value in rows[-1].items() if name.startswith("t_")]
    assert float(rows[-1]["loss"]) == pytest.approx(sum(bins) / 4, rel=1e-4)
    train(read_recipe(str(recipe), zoo), tmp_path / "b", quiet=True)  # looking changes nothing
    a, b = (load_file(tmp_path / name / "model" / "model.safetensors") for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)
    with pytest.raises(SpecError, match="items=2 is fewer than bins=4; every bin needs one"):
        read_recipe(str(recipe), zoo, [validation[0].replace("items=16", "items=2")])


def test_a_dry_run_tells_time_and_memory_and_leaves_nothing(recipe, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "ditzoo", "train", str(recipe), "--dry-run", "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["hours"] == pytest.approx(told["seconds_per_step"] * 30 / 3600, abs=1e-3)
    assert told["images_per_second"] == pytest.approx(12 / told["seconds_per_step"], rel=0.01)
    assert told["epochs"] == pytest.approx(30 * 12 / 64, abs=0.01)
    assert told["checkpoint_mb"] == pytest.approx(told["parameters"] * 16 / 1e6, abs=0.1)
    assert told["peak_memory_mb"] > 50
    assert list(tmp_path.iterdir()) == []


def test_the_log_tells_what_the_machine_does(recipe, zoo, tmp_path):
    run = prepare(read_recipe(str(recipe), zoo), tmp_path)
    run.follow(quiet=True)
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert 0 < float(row["mfu"]) < 1.5
        assert float(row["gflops"]) > 0
        assert float(row["memory_mb"]) > 50
    assert [float(row["seconds"]) for row in rows] == sorted(float(row["seconds"]) for row in rows)
