"""The slot `loss`: REPA's term, its place in a run, and what cannot be asked of it."""

from __future__ import annotations

import csv

import pytest
import torch
from conftest import refused, tiny, wake
from safetensors.torch import load_file

from ditzoo.assemble import build
from ditzoo.interfaces import Seen
from ditzoo.training.loop import train
from ditzoo.training.recipe import read_recipe
from ditzoo.training.trainee import Trainee

REPA = 'losses=[{kind="repa", depth=1, hidden=16, weight=0.5, features="fashion-cnn"}]'
GREY = {"backbone": {"in_channels": 1, "input_size": [28, 28], "patch": 7}, "codec": {"channels": 1}, "prompt": {"classes": 10}}


class Places:
    """A teacher that sees the mean of each quarter, and twice that."""

    sha256 = ""

    def see(self, pixels):
        means = torch.nn.functional.adaptive_avg_pool2d(pixels[:, :1], 2)
        return Seen(means.flatten(1), None, torch.cat([means, 2 * means + 1], 1))


class Pooled(Places):
    def see(self, pixels):
        return super().see(pixels)._replace(patches=None)


@pytest.mark.parametrize("conditioning", ["adaln-zero", "in-context"])
@pytest.mark.parametrize("teacher", [Places, Pooled])
def test_the_term_is_one_minus_the_mean_cosine_at_each_place(zoo, teacher, conditioning):
    from ditzoo_repa.alignment import Alignment

    model = wake(build(zoo.model(tiny(conditioning=conditioning))))
    spec = zoo.part("loss", {"kind": "repa", "depth": 2, "hidden": 8, "features": "fashion-cnn"})
    loss = Alignment(spec, teacher(), model.spec)
    pixels, x, t = torch.randn(3, 3, 8, 8), torch.randn(3, 3, 8, 8), torch.tensor([10.0, 500.0, 900.0])
    out, (term,) = Trainee(model, [loss])(x, t, [1, 2, 3], x, torch.ones(3), pixels)
    assert torch.equal(out, model(x, t, [1, 2, 3]))
    backbone = model.backbone
    tokens = backbone.run(backbone.begin(x, t, model.prompt.encode([1, 2, 3])), 0, 2).tokens[:, :16]
    for row in range(3):
        seen, cosines = teacher().see(pixels[row : row + 1]), []
        if seen.patches is None:
            pairs = [(tokens[row].mean(0), seen.features[0])]
        else:
            places = torch.nn.functional.interpolate(seen.patches, size=(4, 4), mode="bilinear", antialias=True)
            pairs = [(tokens[row, 4 * i + j], places[0, :, i, j]) for i in range(4) for j in range(4)]
        for token, wanted in pairs:
            found = loss.projector(token)
            cosines.append(float(found @ wanted / (found.norm() * wanted.norm())))
        assert float(term[row]) == pytest.approx(1 - sum(cosines) / len(cosines), abs=1e-5)


def rows(folder):
    with (folder / "log.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_learns_it_beside_its_own_loss_and_leaves_it_out_of_the_model(recipe, zoo, tmp_path):
    told = read_recipe(str(recipe), zoo, [REPA])
    train(told, tmp_path / "with", quiet=True)
    log = rows(tmp_path / "with")
    assert float(log[-1]["loss_repa"]) < 0.8 * float(log[0]["loss_repa"])
    assert all(float(row["loss"]) > 0.5 * float(row["loss_repa"]) for row in log)
    held = load_file(tmp_path / "with" / "checkpoint-30" / "model.safetensors")
    assert "losses.0.projector.0.weight" in held
    model = load_file(tmp_path / "with" / "model" / "model.safetensors")
    assert {f"model.{name}" for name in model} == {name for name in held if not name.startswith("losses.")}


def test_resumed_it_goes_on_as_it_was(recipe, zoo, tmp_path):
    short = [REPA, "output.checkpoint_every=10", "output.log_every=7", "output.keep=9"]
    train(read_recipe(str(recipe), zoo, short), tmp_path / "whole", quiet=True)
    (tmp_path / "cut").mkdir()
    (tmp_path / "whole" / "checkpoint-10").rename(tmp_path / "cut" / "checkpoint-10")
    (tmp_path / "cut" / "log.csv").write_bytes((tmp_path / "whole" / "log.csv").read_bytes())
    train(read_recipe(str(recipe), zoo, [*short, "length.segments=2"]), tmp_path / "cut", resume=True, quiet=True)
    a, b = (load_file(tmp_path / name / "checkpoint-30" / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert [row["loss_repa"] for row in rows(tmp_path / "whole")] == [row["loss_repa"] for row in rows(tmp_path / "cut")]


EXITS = ["model.exits={kind='offset', at=[1]}", "losses=[{kind='exits', weight=0.3, distill=0.25}]"]


@pytest.mark.parametrize("learn_sigma", [False, True])
@pytest.mark.parametrize("kind", ["offset", "separate"])
def test_the_exit_loss_is_its_formula_and_teaches_trunk_and_exit_but_not_the_teacher(zoo, kind, learn_sigma):
    model = wake(build(zoo.model(tiny(backbone={"learn_sigma": learn_sigma}, exits={"kind": kind, "at": [1, 2]})))).requires_grad_(True)
    loss = zoo.part("loss", {"kind": "exits", "distill": 0.25}).build(model.spec)
    x, t, target = torch.randn(2, 3, 8, 8), torch.tensor([10.0, 900.0]), torch.randn(2, 3, 8, 8)
    weights = torch.tensor([1.0, 3.0])
    out, (term,) = Trainee(model, [loss])(x, t, [1, 2], target, weights, x)
    cond = model.prompt.encode([1, 2])
    exits = [model.backbone(x, t, cond, depth) for depth in (1, 2)]
    own = sum((early[:, :3] - target).square().flatten(1).mean(1) for early in exits)
    taught = sum((early - out).square().flatten(1).mean(1) for early in exits)
    torch.testing.assert_close(term, weights * (0.75 * own + 0.25 * taught))
    term.sum().backward()
    assert all(p.grad is not None for p in model.backbone.given_exits.parameters())
    assert all(p.grad is None for p in model.backbone.blocks[2].parameters())
    assert model.backbone.blocks[0].mlp.fc1.weight.grad.abs().max() > 0


def test_a_run_trains_exits_beside_the_last_block(recipe, zoo, tmp_path):
    told = read_recipe(str(recipe), zoo, [*EXITS, "length.steps=60"])
    train(told, tmp_path, quiet=True)
    log = rows(tmp_path)
    assert float(log[-1]["loss_exits"]) < 0.8 * float(log[0]["loss_exits"])
    model = load_file(tmp_path / "model" / "model.safetensors")
    assert not torch.equal(model["backbone.given_exits.scale.1"], torch.ones(32))


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        (REPA.replace("depth=1", "depth=9"), "loss 'repa': depth=9 is beyond backbone.depth=2"),
        ("losses=[{kind='exits'}]", "loss 'exits': 'bars' has no exits to train; give it some: model.exits={kind='offset', at=[1]}"),
        (EXITS[0], "model.exits are trained by none of the losses; add one: losses=[{kind='exits'}], or leave model.exits out"),
        (
            REPA.replace("repa", "reqa"),
            "losses.0: no installed plugin offers loss kind 'reqa'; installed: exits, flops, repa, words-apart; did you mean 'repa'?",
        ),
        (
            REPA.replace("fashion-cnn", "fashion-cnm"),
            "losses.0.features: no installed plugin offers features kind 'fashion-cnm'; installed: avatar-cnn, fashion-cnn, inception, motion-cnn; did you mean 'fashion-cnn'?",
        ),
    ],
)
def test_what_cannot_be_had_is_refused(recipe, capsys, monkeypatch, tmp_path, setting, told):
    message = refused(capsys, monkeypatch, "train", recipe, "--out", tmp_path, "--set", setting)
    assert told in message, message


WORDS = {"kind": "text-tokens", "vocabulary": ["coat", "pullover", "bag", "left", "right"], "length": 3, "heads": 2}


def speaking(zoo, **parts):
    torch.manual_seed(0)
    return build(zoo.model(tiny(prompt=WORDS, **parts)))


def distances(prompt):
    vectors = prompt.encode([(word,) for word in range(5)]).vec
    return torch.cdist(vectors, vectors)


def test_words_are_drawn_apart_up_to_a_share_of_what_they_are_on_average(zoo):
    model = speaking(zoo)
    prompt = model.prompt
    with torch.no_grad():
        prompt.table.weight[1] = prompt.table.weight[0] + 0.001  # a pullover is a coat
    spec = zoo.part("loss", {"kind": "words-apart", "margin": 0.6})
    trainee = Trainee(model, [spec.build(model.spec)])
    x, t = torch.randn(3, 3, 8, 8), torch.tensor([10.0, 500.0, 900.0])

    def term():
        return trainee(x, t, ["coat", "bag left", ""], x, torch.ones(3), x)[1][0]

    apart = distances(prompt)
    ratio = apart / apart[apart > 0].mean()
    expected = sum(max(0.0, 0.6 - float(ratio[a, b])) ** 2 for a in range(5) for b in range(5) if a != b) / 5
    assert term().tolist() == pytest.approx([expected] * 3, abs=1e-5)
    assert expected > 0.1
    with torch.no_grad():
        prompt.pooled.weight *= 3
        prompt.pooled.bias *= 3
    assert float(term()[0]) == pytest.approx(expected, abs=1e-5)  # no way out by growing
    optimizer = torch.optim.Adam(prompt.parameters(), lr=1e-3)
    for _ in range(100):
        optimizer.zero_grad()
        term().mean().backward()
        optimizer.step()
    with torch.no_grad():
        apart = distances(prompt)
    assert float(apart[0, 1] / apart[apart > 0].mean()) > 0.55


def test_words_are_of_a_vocabulary(zoo):
    loss = zoo.part("loss", {"kind": "words-apart"})
    assert "prompt 'label' has none; choose model.prompt.kind='text-tokens'" in loss.check(zoo.model(tiny()))
    assert "has one" in loss.check(zoo.model(tiny(prompt=WORDS | {"vocabulary": ["bag"]})))
    assert loss.check(speaking(zoo).spec) is None
