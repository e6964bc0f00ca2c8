"""Items of several sizes in training: every item is seen, packed or not, and a packed step is the step of its clips alone."""

from __future__ import annotations

import itertools
import math
import shutil
import subprocess
from types import SimpleNamespace
from typing import Literal

import pytest
import torch
from runs import command, deciding, same_end
from safetensors.torch import load_file

from ditzoo.errors import SpecError
from ditzoo.packing import Pack
from ditzoo.specs import LossSpec
from ditzoo.training.loop import prepare, train
from ditzoo.training.loss import Draws
from ditzoo.training.recipe import read_recipe
from ditzoo.training.rehearsal import rehearse
from ditzoo.training.sizes import OneSize, Packed


def planned(count, most, rows=2, first=0, last=40, lo=0, hi=2):
    sizes = list(itertools.product((8, 12, 16), (28, 36), (28, 36, 40)))
    tokens = {item: math.prod(a // b for a, b in zip(sizes[item * 7 % 18], (2, 4, 4), strict=True)) for item in range(count)}
    return tokens, list(Packed(count, tokens.get, most, rows, 1, first, last, lo, hi))


def test_packed_rows_are_full_and_every_epoch_is_whole():
    tokens, steps = planned(200, most=4 * 8 * 9 * 10)
    rows = [row for step in steps for row in step.held]
    used = [sum(map(tokens.get, row)) for row in rows]
    assert max(used) <= 4 * 8 * 9 * 10
    assert sum(used) / (len(used) * 4 * 8 * 9 * 10) > 0.9
    flat = [item for row in rows for item in row]
    assert len(flat) > 400
    assert steps[-1].seen == len(flat)
    assert set(flat[:264]) == set(range(200))  # what waits is 64 items late at most
    assert max(map(flat.count, range(200))) - min(map(flat.count, range(200))) <= 1
    _, late = planned(200, 4 * 8 * 9 * 10, first=30)
    assert late == steps[30:]
    halves = [planned(200, 4 * 8 * 9 * 10, lo=lo, hi=lo + 1)[1] for lo in (0, 1)]
    assert [a.held + b.held for a, b in zip(*halves, strict=True)] == [step.held for step in steps]


def test_steps_of_one_size_leave_no_item_out():
    made = [list(OneSize(30, lambda item: (item % 3, 8), lambda size: 4, 1, first, 40, 0, 1)) for first in (0, 25)]
    assert all(len({item % 3 for item in batch}) == 1 for batch in made[0])
    assert made[1] == made[0][25:]
    counts = torch.bincount(torch.tensor(made[0]).flatten(), minlength=30)
    assert counts.sum() == 160
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("settings", [(), ("model.exits={kind='offset', at=[1]}", "losses=[{kind='exits'}]")], ids=["plain", "exits"])
def test_a_packed_step_is_the_mean_of_its_clips_alone(clips, zoo, tmp_path, settings):
    run = prepare(read_recipe(str(clips), zoo, settings), tmp_path)
    model = run.trainee.model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    batch = next(iter(run.batches()))
    portions = run.feed.portions(0, batch)
    packed = sum(run.losses_of(portion) / portion.divisor for portion in portions)
    packed[0].backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    alone = []
    for pixels, items, portion in zip(batch.pixels, batch.items, portions, strict=True):
        noises = Pack(portion.draws.noise, portion.latents.packing).clips()
        for index, (clip, noise, item) in enumerate(zip(pixels, noises, items, strict=True)):
            draws = Draws(noise[None], portion.draws.time[index : index + 1], portion.draws.drop[index : index + 1])
            one = SimpleNamespace(latents=clip[None], pixels=clip[None], items=[item], draws=draws)
            alone.append(run.losses_of(one))
    assert len(alone) == batch.wanted.items > 4
    assert len({clip.shape for row in batch.pixels for clip in row}) > 2
    mean = torch.stack(alone).mean(0)
    torch.testing.assert_close(packed, mean, atol=1e-5, rtol=1e-5)
    mean[0].backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, atol=1e-5, rtol=1e-5)


GIVEN = ["model.backbone.frame_times=true", "objective.given=0.5", "objective.rising=0.2"]


FULL = "mixing={kind='one-size', tokens=36}"  # two of the largest items, six of the smallest


@pytest.mark.parametrize("mixing", ["mixing.tokens=128", "mixing={kind='one-size'}", FULL], ids=["packed", "one-size", "one-size-full"])
def test_a_run_goes_on_as_it_was(clips, zoo, tmp_path, mixing):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    settings = [mixing, *GIVEN]
    train(read_recipe(str(clips), zoo, settings), whole, quiet=True)
    cut.mkdir()
    shutil.copytree(whole / "checkpoint-4", cut / "checkpoint-4")
    shutil.copy(whole / "log.csv", cut)
    train(read_recipe(str(clips), zoo, [*settings, "length.workers=1"]), cut, resume=True, quiet=True)
    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (whole, cut))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert deciding(whole) == deciding(cut)


@pytest.mark.parametrize("mixing", ["mixing.tokens=128", FULL], ids=["packed", "one-size-full"])
def test_two_processes_share_the_rows_of_a_step(clips, zoo, tmp_path, mixing):
    settings = [mixing, *GIVEN]
    train(read_recipe(str(clips), zoo, settings), tmp_path / "one", quiet=True)
    done = subprocess.run(
        command(clips, tmp_path / "two", *settings, processes=2), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    same_end(tmp_path / "two", tmp_path / "one")
    assert [row["epoch"] for row in deciding(tmp_path / "two")] == [row["epoch"] for row in deciding(tmp_path / "one")]


def test_a_dry_run_takes_the_largest_steps_of_one_size(clips, zoo, tmp_path):
    run = prepare(read_recipe(str(clips), zoo, ["mixing={kind='one-size'}"]), tmp_path)
    assert {tuple(batch.pixels.shape[1:]) for batch in run.feed.heaviest(2)} == {(1, 6, 28, 42)}


def test_steps_of_one_size_have_as_many_items_as_their_tokens_allow(clips, zoo, tmp_path):
    run = prepare(read_recipe(str(clips), zoo, [FULL, "data.frames=[2, 6]"]), tmp_path)
    held = [batch.pixels.shape for batch in run.batches()]
    tokens = {2: 4, 6: 12}  # of 28x28, in patches of 2x14x14; half as many again of 28x42
    assert len({shape[0] for shape in held}) > 1
    for count, _, frames, _, width in held:
        own = tokens[frames] * width // 28
        assert count % 2 == 0
        assert 36 - 2 * own < count * own <= 36
    assert run.feed.seen(3, None) == sum(shape[0] for shape in held[:3])
    assert run.feed.seen(8, None) == sum(shape[0] for shape in held)


def test_a_dry_run_counts_the_items_of_its_rows(clips, zoo):
    told = rehearse(read_recipe(str(clips), zoo, ["length.workers=0"]))
    assert told["images_per_second"] * told["seconds_per_step"] > 6
    assert told["epochs"] == pytest.approx(8 * told["images_per_second"] * told["seconds_per_step"] / 64, rel=0.02)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            ["mixing={kind='one-size', tokens=35}"],
            "mixing.tokens is 35, and length.batch_size=2 items of the largest size, 6x28x42, have 36; set it to that at least, or lower "
            "length.batch_size",
        ),
        (["mixing={kind='packed'}"], "mixing.tokens is missing, and the largest item, 6x28x42, has 18; set mixing.tokens=72, say"),
        (["mixing.tokens=17"], "mixing.tokens is 17, and the largest item, 6x28x42, has 18; set mixing.tokens=72, say"),
        (
            ["model.conditioning={kind='dydit', inner='adaln-zero', groups=2}"],
            "conditioning 'dydit' takes batches of one size alone, no packed rows; set mixing={kind='one-size'}",
        ),
        (
            ["length.accumulate=2"],
            "each packed row is a portion of its own, and length.accumulate is 2; set it to 1, and lower mixing.tokens for less memory",
        ),
        (["data.widths=[28, 35]"], "data 'moving-fashion' gives latents of 2x28x35: patch=2x14x14 does not divide the latent 2x28x35"),
        (
            ["mixing.kind=padded"],
            "mixing.kind: input should be 'packed' or 'one-size'",
        ),
    ],
)
def test_what_cannot_be_mixed_is_refused(clips, zoo, settings, told):
    with pytest.raises(SpecError) as caught:
        read_recipe(str(clips), zoo, settings)
    assert told in str(caught.value)


def test_several_sizes_without_a_table_are_refused(clips, recipe, zoo, tmp_path):
    bare = tmp_path / "bare.toml"
    bare.write_text("\n".join(line for line in clips.read_text().splitlines() if not line.startswith("mixing")))
    with pytest.raises(SpecError) as caught:
        read_recipe(str(bare), zoo)
    assert (
        "data 'moving-fashion' has items of 6 sizes, from 2x28x28 to 6x28x42, and a batch has one; set mixing={kind='packed', tokens=...} "
        "or {kind='one-size'}, or give data of one size"
    ) in str(caught.value)
    folder = clips.read_text().partition('folder = "')[2].partition('"')[0]
    data = f"{{kind='moving-fashion', articles={{kind='fashion-mnist', folder='{folder}'}}, frames=[2, 4], heights=[28], widths=[28]}}"
    with pytest.raises(
        SpecError, match="validation.data 'moving-fashion' has items of 2 sizes, from 2x28x28 to 4x28x28, and a batch has one; give"
    ):
        read_recipe(str(clips), zoo, [f"validation={{data={data}, items=8}}"])
    with pytest.raises(SpecError, match="backbone 'dit' takes batches of one size alone, no packed rows"):
        read_recipe(str(recipe), zoo, ["mixing={kind='packed', tokens=64}"])


class WholePictures(LossSpec):
    kind: Literal["whole-pictures"] = "whole-pictures"


def test_a_loss_that_needs_whole_pictures_is_refused(clips, zoo):
    whole = read_recipe(str(clips), zoo)
    assert whole.mixing.problem(whole) is None
    told = whole.mixing.problem(whole.model_copy(update={"losses": (WholePictures(),)}))
    assert told == "loss 'whole-pictures' takes batches of one size alone, no packed rows; set mixing={kind='one-size'}"
