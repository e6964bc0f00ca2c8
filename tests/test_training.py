"""Training: it learns, a killed run ends as an unbroken one, processes share a batch, and a bad recipe is refused."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import refused, run_ditzoo, tiny, wake
from PIL import Image
from runs import launched

from ditzoo.assemble import build
from ditzoo.errors import CheckpointError, DataError, OutputError, TrainingError
from ditzoo.noise import generator
from ditzoo.training.ema import EMA
from ditzoo.training.loop import train
from ditzoo.training.loss import Draws, diffusion_loss
from ditzoo.training.recipe import read_recipe


def losses(folder: Path) -> list[float]:
    with (folder / "log.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="session")
def unbroken(recipe, zoo, tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken")
    train(read_recipe(str(recipe), zoo), out, quiet=True)
    return out


def test_it_learns_and_leaves_what_a_user_expects(unbroken):
    found = losses(unbroken)
    assert found[-1] < 0.75 * found[0]
    assert sorted(path.name for path in unbroken.glob("checkpoint-*")) == ["checkpoint-25", "checkpoint-30"]
    assert not list(unbroken.rglob("*.tmp"))
    assert json.loads((unbroken / "recipe.json").read_text())["seed"] == 3
    done = run_ditzoo("sample", f"local-dir:{unbroken / 'model'}", "--out", unbroken / "drawn")
    assert done.returncode == 0, done.stderr
    assert len(list((unbroken / "drawn").glob("0*.png"))) == 10


def test_two_processes_train_as_one(recipe, unbroken, tmp_path):
    done = subprocess.run(
        [*launched(2), "train", str(recipe), "--out", str(tmp_path), "--quiet"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert losses(tmp_path) == pytest.approx(losses(unbroken), rel=1e-4)
    assert done.stdout.count("local-dir:") == 1


def test_processes_that_do_not_see_each_other_are_refused(recipe, capsys, monkeypatch, tmp_path):
    """What accelerate makes of several processes where it looks for GPUs and finds none: each takes itself for the only one."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    message = refused(capsys, monkeypatch, "train", recipe, "--out", tmp_path)
    assert "2 processes were started and accelerate sees 1; set ACCELERATE_USE_CPU=true" in message


def test_compiled_block_by_block_it_is_the_same_step(recipe, unbroken, zoo, tmp_path):
    train(read_recipe(str(recipe), zoo, ["length.compile=true"]), tmp_path, quiet=True)
    assert losses(tmp_path) == pytest.approx(losses(unbroken), rel=1e-4)


def test_accumulation_is_the_same_step(recipe, unbroken, zoo, tmp_path):
    train(read_recipe(str(recipe), zoo, ["length.accumulate=3"]), tmp_path, quiet=True)
    assert losses(tmp_path) == pytest.approx(losses(unbroken), rel=1e-4)


def test_samples_and_tensorboard_are_written_when_asked(recipe, zoo, tmp_path):
    settings = ["length.steps=6", "optimizer.warmup=0", "output.sample_every=3", "output.tensorboard=true", "length.mixed_precision=bf16"]
    train(read_recipe(str(recipe), zoo, settings), tmp_path, quiet=True)
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["00000003.png", "00000006.png"]
    assert list((tmp_path / "tensorboard").iterdir())


def test_another_recipe_is_refused_with_the_fields_that_differ(recipe, zoo, unbroken):
    with pytest.raises(CheckpointError, match=r"optimizer\.lr \(0\.006 there, 0\.1 here\)"):
        train(read_recipe(str(recipe), zoo, ["optimizer.lr=0.1"]), unbroken, resume=True, quiet=True)
    with pytest.raises(OutputError, match="holds a run .checkpoint-30.; add --resume"):
        train(read_recipe(str(recipe), zoo), unbroken, quiet=True)


def test_a_folder_of_more_classes_than_labels_is_refused(recipe, zoo, tmp_path):
    for name in "abc":
        (tmp_path / "pictures" / name).mkdir(parents=True)
        Image.new("L", (28, 28)).save(tmp_path / "pictures" / name / "one.png")
    settings = [
        "data.kind=image-folder",
        f"data.folder={tmp_path / 'pictures'}",
        "data.size=28",
        "data.channels=1",
        "model.prompt.classes=2",
    ]
    with pytest.raises(DataError, match=r"has 3 classes and prompt\.classes is 2; set model\.prompt\.classes=3"):
        train(read_recipe(str(recipe), zoo, settings), tmp_path / "run", quiet=True)
    fits = [*settings[:-1], "model.prompt.classes=3", "length.steps=1", "length.batch_size=2", "optimizer.warmup=0"]
    assert train(read_recipe(str(recipe), zoo, fits), tmp_path / "run", quiet=True).is_dir()


def test_a_loss_that_is_not_finite_stops_the_run_and_spoils_no_checkpoint(recipe, zoo, tmp_path):
    settings = ["optimizer.lr=1e30", "optimizer.warmup=0", "output.log_every=30", "output.checkpoint_every=1"]
    with pytest.raises(
        TrainingError,
        match=r"10 steps in a row were left out, up to step \d+: the gradient's norm is (nan|inf); the last checkpoint is sound. Lower optimizer.lr=1e\+30",
    ):
        train(read_recipe(str(recipe), zoo, settings), tmp_path, quiet=True)
    assert not (tmp_path / "model").exists()


def test_ema_is_the_recursion_and_steps_aside_again():
    module = torch.nn.Linear(2, 1)
    ema, expected = EMA(module, 0.9, warmup=False), module.weight.detach().clone()
    for step in range(1, 4):
        with torch.no_grad():
            module.weight.add_(1.0)
        ema.update(module, step)
        expected = 0.9 * expected + 0.1 * module.weight.detach()
    own = module.weight.detach().clone()
    with ema.applied(module):
        torch.testing.assert_close(module.weight.detach(), expected)
    assert torch.equal(module.weight.detach(), own)
    warm = EMA(module, 0.9999)
    with torch.no_grad():
        module.weight.add_(1.0)
    warm.update(module, 1)
    torch.testing.assert_close(warm.average["weight"], own + 9 / 11)  # decay (1 + 1) / (10 + 1)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "flow"])
def test_the_loss_of_a_perfect_network_is_zero_and_labels_are_dropped(zoo, schedule):
    model = build(zoo.model(tiny(schedule={"kind": schedule})))
    latents = torch.randn(64, 3, 8, 8)
    draws = Draws.of(latents, generator(0))
    built = model.spec.schedule.build()
    seen = []

    def perfect(x, t, items, *_):
        seen.append(items)
        return built.target(latents, draws.noise, built.draw(draws.time))

    assert diffusion_loss(model, perfect, built, latents, [1] * 64, draws).abs().max() < 1e-10
    dropped = (seen[0] == 5).float().mean()
    assert torch.equal(seen[0] == 5, draws.drop < 0.1)
    assert 0 < dropped < 0.3


def test_the_bound_teaches_the_variance_and_leaves_the_mean_alone(zoo):
    data = tiny(backbone={"learn_sigma": True})
    model = wake(build(zoo.model(data))).requires_grad_(True)
    latents = torch.randn(8, 3, 8, 8, generator=generator(0))
    draws, schedule = Draws.of(latents, generator(1)), model.spec.schedule.build()
    outputs = []

    def call(x, t, items, *_):
        outputs.append(model(x, t, items))
        outputs[-1].retain_grad()
        return outputs[-1]

    whole = diffusion_loss(model, call, schedule, latents, [0] * 8, draws)
    whole.mean().backward()
    simple = 2 * (outputs[0][:, :3] - draws.noise) / (8 * 3 * 8 * 8)
    torch.testing.assert_close(outputs[0].grad[:, :3], simple, atol=1e-6, rtol=1e-4)  # the squared error's gradient alone
    assert outputs[0].grad[:, 3:].abs().min() > 0
    assert (whole > (outputs[0][:, :3] - draws.noise).square().flatten(1).mean(1)).all()  # a KL divergence is positive
