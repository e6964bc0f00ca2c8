"""Given frames: one mechanism for image-to-video, extension, interpolation and loops, in training and in sampling."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace

import pytest
import torch
from conftest import refused, run_ditzoo, wake
from PIL import Image

from ditzoo.assemble import build
from ditzoo.errors import SamplingError, SpecError
from ditzoo.interfaces import Prediction
from ditzoo.model_spec import ModelSpec
from ditzoo.noise import Noise, generator
from ditzoo.packing import Pack
from ditzoo.predictions import expand
from ditzoo.training.frames import GIVEN, PATTERNS, drawn_frames, risen, times_of
from ditzoo.training.loop import prepare
from ditzoo.training.loss import Draws, diffusion_loss
from ditzoo.training.recipe import read_recipe
from ditzoo.training.tables import Objective

TINY = {"kind": "video-dit", "width": 48, "depth": 2, "heads": 2, "in_channels": 1, "input_size": [6, 8, 8], "frame_times": True}


def spec_of(zoo, backbone=None, **parts):
    data = {
        "name": "tiny-video",
        "backbone": TINY | (backbone or {}),
        "conditioning": {"kind": "adaln-zero"},
        "prompt": {"kind": "label", "classes": 3},
        "schedule": {"kind": "flow", "prediction": "velocity"},
        "sampler": {"kind": "euler"},
        "codec": {"kind": "pixels", "channels": 1},
        "sampling": {"steps": 3},
    }
    return zoo.validate(ModelSpec, data | parts, source="tiny-video")


def frames_of(count, size=(8, 8), seed=0):
    return torch.rand(1, count, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("patch", [(1, 2, 2), (2, 2, 2)])
@pytest.mark.parametrize("conditioning", ["adaln-zero", "in-context"])
def test_a_time_a_frame_is_the_clips_where_all_are_alike_and_reaches_its_own_frame(zoo, patch, conditioning):
    model = wake(build(spec_of(zoo, {"patch": list(patch)}, conditioning={"kind": conditioning})))
    x, t, cond = torch.randn(2, 1, 6, 8, 8), torch.tensor([300.0, 700.0]), model.prompt.encode([0, 1])
    times = t[:, None].repeat(1, 6)
    with torch.no_grad():
        torch.testing.assert_close(model.backbone(x, times, cond), model.backbone(x, t, cond))
        begun = model.backbone.begin(x, t, cond).tokens
        times[:, 2] = 0.0
        told = model.backbone.begin(x, times, cond).tokens
        moved = (told - begun)[:, : 6 // patch[0] * 16].abs().amax(-1).view(2, 6 // patch[0], 16).amax(-1) > 1e-6
    assert moved.nonzero().tolist() == [[0, 2 // patch[0]], [1, 2 // patch[0]]]


def test_a_fresh_backbone_with_frame_times_is_the_one_without(zoo):
    plain, timed = (build(spec_of(zoo, {"frame_times": on})) for on in (False, True))
    missing = timed.load_state_dict(plain.state_dict(), strict=False)
    assert missing.missing_keys == ["backbone.frame_times.linear.weight"]
    wake(plain)
    timed.load_state_dict(plain.state_dict(), strict=False)
    x, t = torch.randn(2, 1, 6, 8, 8), torch.tensor([[0.0, 1, 2, 3, 4, 500], [600, 0, 0, 0, 0, 0]])
    with torch.no_grad():
        assert torch.equal(timed(x, t, [0, 1]), plain(x, torch.tensor([500.0, 600.0]), [0, 1]))
    with pytest.raises(ValueError, match=r"one time a clip, found \(2, 6\); build it with backbone.frame_times=true"):
        plain(x, t, [0, 1])


def test_packed_clips_have_times_of_their_own_frames(zoo):
    model = wake(build(spec_of(zoo, {"patch": [2, 2, 2]})))
    clips = [torch.randn(1, *size) for size in ((6, 8, 8), (2, 4, 6), (4, 4, 4))]
    times = [torch.rand(clip.shape[1]) * 900 for clip in clips]
    with torch.no_grad():
        pack = model.backbone.pack(clips)
        together = Pack(model.backbone(pack, torch.cat(times), model.prompt.encode([0, 1, 2])), pack.packing).clips()
        for item, (clip, t, found) in enumerate(zip(clips, times, together, strict=True)):
            torch.testing.assert_close(found, model(clip[None], t[None], [item])[0], atol=1e-5, rtol=1e-5)


def test_frames_are_given_as_often_as_they_say():
    found = [numbers < 0 for numbers in drawn_frames(Objective(given=0.6), torch.rand(4000), [8] * 4000, generator(0))]
    some = torch.stack([mask for mask in found if mask.any()])
    assert len(some) / 4000 == pytest.approx(0.6, abs=0.03)
    assert not some.all(1).any()
    assert (some.sum(1) == 1).double().mean() == pytest.approx(0.25, abs=0.04)  # ln 2 / ln 8 of those that are not at both ends
    assert not torch.stack(drawn_frames(Objective(given=1.0), torch.rand(50), [1] * 50, generator(0))).lt(0).any()
    for total, count in itertools.product(range(2, 9), range(1, 8)):
        if count < total:
            for name, pattern in PATTERNS.items():
                places = list(pattern(count, list(range(total))))
                assert 0 < len(set(places)) < total, name
                assert set(places) <= set(range(total)), name
    ends = sorted(PATTERNS["ends"](3, list(range(8))))
    assert ends == [0, 1, 7]


def test_times_rise_from_data_to_noise():
    assert risen(0.0, 4).tolist() == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert risen(0.5, 4).tolist() == pytest.approx([0.125, 0.375, 0.625, 0.875])
    assert risen(-2, 4).tolist() == pytest.approx([0.75, 1, 1, 1])
    assert risen(2.5, 4).tolist() == pytest.approx([GIVEN, GIVEN, 0.125, 0.375])
    found = torch.stack(drawn_frames(Objective(rising=1.0), torch.rand(2000), [4] * 2000, generator(0)))
    midst = ((found > 0) & (found < 0.999)).all(1)
    assert midst.double().mean() == pytest.approx(0.5 + 0.5 / 7, abs=0.05)
    assert (found.diff(dim=1) >= 0).all()
    with pytest.raises(ValueError, match=r"given=0.7 and rising=0.5 are shares of the clips, and together more than 1"):
        Objective(given=0.7, rising=0.5)


@pytest.mark.parametrize("schedule", ["flow", "cosine"])
def test_given_frames_stay_clean_are_told_so_and_do_not_count(zoo, schedule):
    spec = spec_of(zoo, schedule={"kind": schedule}, sampler={"kind": "ddim"})
    model, built = build(spec), spec.schedule.build()
    latents, draws = torch.randn(4, 1, 6, 8, 8), Draws.of(torch.empty(4, 1, 6, 8, 8), generator(0))
    given = torch.zeros(4, 6, dtype=torch.bool)
    given[0, :2] = given[1, 5] = True
    own = built.draw(draws.time)
    numbers = torch.where(given, GIVEN, draws.time[:, None])

    def half_right(x, t, items, target, weights, counts):
        assert t.shape == (4, 6)
        for row, frame in given.nonzero().tolist():
            assert torch.equal(x[row, :, frame], latents[row, :, frame])
            assert t[row, frame] == built.model_time(torch.tensor(0.0))
        assert torch.equal(t[2], built.model_time(own[2]).float().expand(6))
        wrong = target + given[:, None, :, None, None] * 7.0  # errors of given frames alone
        wrong[0, :, 3] += 2.0  # one of the four frames to be drawn
        return wrong

    loss = diffusion_loss(model, half_right, built, latents, [0] * 4, Draws(draws.noise, draws.time, draws.drop, numbers))
    torch.testing.assert_close(loss, torch.tensor([1.0, 0, 0, 0]))


def test_of_a_pack_the_same_counts_as_of_its_clips(zoo):
    own, packing = (
        torch.tensor([0.3, 0.8], dtype=torch.float64),
        Pack.of([torch.zeros(1, 4, 4, 4), torch.zeros(1, 2, 2, 4)], (2, 2, 2)).packing,
    )
    frames, schedule = torch.tensor([GIVEN, 0.3, 0.3, 0.3, 0.8, GIVEN], dtype=torch.float64), spec_of(zoo).schedule.build()
    times = times_of(schedule, own, frames, packing, 5, None)
    assert times.told.tolist() == [0, 0.3, 0.3, 0.3, 0.8, 0]
    assert times.noise.shape == times.errors.shape == (10, 2)
    assert times.errors.min() == 0.3
    assert times.counts.shape == (10, 1, 2, 1, 1)
    torch.testing.assert_close(packing.means(times.counts.flatten(1).mean(1)), torch.ones(2))
    assert times.counts[0].flatten().tolist() == pytest.approx([0, 4 / 3])
    assert times.counts[-1].flatten().tolist() == [2, 0]


def test_a_run_with_given_frames_is_the_mean_of_its_clips(zoo, clips, tmp_path):
    """The loss of exits counts as the run's own does."""
    exits = ["model.exits={kind='offset', at=[1]}", "losses=[{kind='exits'}]"]
    recipe = read_recipe(
        str(clips),
        zoo,
        ["model.backbone.frame_times=true", "objective.given=0.6", "objective.rising=0.4", "objective.weighting=min-snr", *exits],
    )
    run = prepare(recipe, tmp_path)
    wake(run.trainee.model)
    batch = next(iter(run.batches()))
    (first, *_) = portions = run.feed.portions(0, batch)
    assert 0 < (first.draws.frames < 0).sum() < len(first.draws.frames)
    with torch.no_grad():
        packed = sum(run.losses_of(portion) / portion.divisor for portion in portions)
        alone = []
        for pixels, items, portion in zip(batch.pixels, batch.items, portions, strict=True):
            noises, masked = (
                Pack(portion.draws.noise, portion.latents.packing).clips(),
                portion.draws.frames.split([len(c[0]) for c in pixels]),
            )
            for i, (clip, noise, mask) in enumerate(zip(pixels, noises, masked, strict=True)):
                draws = Draws(noise[None], portion.draws.time[i : i + 1], portion.draws.drop[i : i + 1], mask[None])
                alone.append(run.losses_of(SimpleNamespace(latents=clip[None], pixels=clip[None], items=items[i : i + 1], draws=draws)))
    torch.testing.assert_close(packed, torch.stack(alone).mean(0), atol=1e-5, rtol=1e-5)
    layer = run.trainee.model.backbone.frame_times.linear
    before = layer.weight.detach().clone()
    run.step(0, batch)
    assert (layer.weight != before).all()
    assert torch.isfinite(run.losses[-1]).all()


@pytest.mark.parametrize("sampler", ["euler", "heun", "ab2", "ddim", "early-exit"])
def test_given_frames_come_back_and_the_others_hear_of_them(zoo, sampler):
    data = {"kind": "early-exit", "inner": "euler"} if sampler == "early-exit" else {"kind": sampler}
    exits = {"exits": {"kind": "offset", "at": [1]}} if sampler == "early-exit" else {}
    model = wake(build(spec_of(zoo, sampler=data, guidance={"scale": 2.0}, **exits)), std=0.1)
    first = frames_of(1)
    plain, one, other = (
        model.sample(class_labels=[0, 1], seed=1, output_type="pt", **more).images
        for more in ({}, {"given": first}, {"given": frames_of(1, seed=1)})
    )
    torch.testing.assert_close(one[:, :, 0], first[None, :, 0].expand(2, 1, 8, 8), atol=1e-5, rtol=0)
    assert (one[:, :, 1:] - plain[:, :, 1:]).abs().max() > 1e-3
    assert (one[:, :, 1:] - other[:, :, 1:]).abs().max() > 1e-3
    alone = model.sample(class_labels=[1], seed=1, first_index=1, output_type="pt", given=first).images
    torch.testing.assert_close(alone[0], one[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("count", "at", "where"),
    [(2, "last", {4: 0, 5: 1}), (1, "ends", {0: 0, 5: 0}), (3, "ends", {0: 0, 1: 1, 5: 2}), (2, [-1, 0], {5: 0, 0: 1}), (1, [3], {3: 0})],
)
def test_frames_lie_where_they_are_put(zoo, count, at, where):
    model, given = build(spec_of(zoo)), frames_of(count)
    drawn = model.sample(class_labels=0, given=given, at=at, output_type="pt").images[0]
    for place, number in where.items():
        torch.testing.assert_close(drawn[:, place], given[:, number], atol=1e-5, rtol=0)


def test_a_clip_goes_on_from_its_own_end(zoo):
    """What is drawn is taken as it comes: tensors, pictures, a list a clip."""
    model = build(spec_of(zoo))
    tensors = model.sample(class_labels=[0, 1], output_type="pt").frames
    further = model.sample(class_labels=[0, 1], given=tensors[:, :, -2:], output_type="pt").frames
    torch.testing.assert_close(further[:, :, :2], tensors[:, :, -2:], atol=1e-5, rtol=0)
    pictures = model.sample(class_labels=[0, 1]).frames
    again = model.sample(class_labels=[0, 1], given=[clip[-2:] for clip in pictures], output_type="pt").frames
    torch.testing.assert_close(again[:, :, :2], tensors[:, :, -2:], atol=1 / 255, rtol=0)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"given": frames_of(6)}, "6 given frames leave nothing to draw of a clip of 6; ask for more: num_frames=12"),
        ({"given": frames_of(0)}, "no frames are given; give at least one, or leave given out"),
        ({"given": []}, "clips have 0 given frames; give each as many, one at least"),
        ({"given": frames_of(1, (8, 10))}, "given frames are 8x10 and the clip is 8x8; set height=8 width=10, or resize them"),
        ({"given": frames_of(1), "at": "frist"}, "no place 'frist' for given frames; did you mean 'first'"),
        ({"given": frames_of(2), "at": [0]}, "1 places for 2 given frames; name one for each"),
        ({"given": frames_of(1), "at": [6]}, "place 6 lies outside a clip of 6 frames; places go from 0 to 5, or back from -1"),
        ({"given": frames_of(2), "at": [5, -1]}, "two given frames are at one place: 5, -1"),
        ({"given": torch.rand(3, 1, 8, 8)}, "given frames have 3 channels, and 'tiny-video' draws 1"),
        ({"given": torch.rand(2, 1, 1, 8, 8), "class_labels": [0, 1, 2]}, "frames are given for 2 clips and 3 are drawn"),
    ],
)
def test_what_cannot_be_given_is_refused(zoo, asked, told):
    with pytest.raises(SamplingError, match=told.replace("(", r"\(")):
        build(spec_of(zoo)).sample(**{"class_labels": 0} | asked)


def test_models_without_frame_times_refuse_with_the_way_out(zoo, clips, capsys, monkeypatch, tmp_path):
    with pytest.raises(
        SamplingError, match=r"takes no given frames: .* train one with backbone.frame_times=true and objective.given above 0"
    ):
        build(spec_of(zoo, {"frame_times": False})).sample(class_labels=0, given=frames_of(1))
    with pytest.raises(
        SpecError, match=r"objective.given=0.5 and rising=0 give frames times of their own.*set model.backbone.frame_times=true"
    ):
        read_recipe(str(clips), zoo, ["objective.given=0.5"])
    with pytest.raises(SpecError, match=r"schedule 'flow' tells noise the smallest; set schedule.time_reversed=false"):
        spec_of(zoo, schedule={"kind": "flow", "time_reversed": True})
    Image.new("L", (28, 28)).save(tmp_path / "one.png")
    message = refused(capsys, monkeypatch, "sample", "fashion-dit", "--given", tmp_path / "one.png")
    assert "'fashion-dit' draws whole" in message


def test_the_command_line_takes_frames_of_files_and_says_them_again(zoo, tmp_path, capsys, monkeypatch):
    from ditzoo.clips import read_frames

    spec = tmp_path / "clips.toml"
    spec.write_text(
        'name = "clips"\nbackbone = { kind = "video-dit", width = 24, depth = 1, heads = 2, in_channels = 1, input_size = [4, 8, 8], '
        'frame_times = true }\nconditioning = "adaln-zero"\nprompt = { kind = "label", classes = 2 }\nschedule = "flow"\n'
        'sampler = "euler"\ncodec = { kind = "pixels", channels = 1 }\nsampling = { steps = 2 }\n'
    )
    words = ["sample", str(spec), "--random-weights", "--label", "1", "--format", "png"]
    run(words, tmp_path / "a")
    (tmp_path / "two").mkdir()
    for name in ("00002.png", "00003.png"):
        (tmp_path / "a" / "00000" / name).rename(tmp_path / "two" / name)
    run([*words, "--given", str(tmp_path / "two"), "--at", "0,-1"], tmp_path / "b")
    first, last = read_frames(tmp_path / "two")
    drawn = read_frames(tmp_path / "b" / "00000")
    assert drawn[0].tobytes() == first.tobytes()
    assert drawn[3].tobytes() == last.tobytes()
    said = json.loads((tmp_path / "b" / "samples.json").read_text())["command"]
    assert f"--given {tmp_path / 'two'} --at 0,-1" in said
    for more, told in [
        (["--at", "last"], "--at last says where given frames lie, and none are given; add --given FILE"),
        (["--given", tmp_path / "none.gif"], f"no file or folder '{tmp_path / 'none.gif'}' to take frames from"),
        (["--given", tmp_path / "two", "--at", "lats"], "no place 'lats' for given frames; did you mean 'last'?"),
        (["--given", tmp_path / "two", "--num-frames", "2"], "2 given frames leave nothing to draw of a clip of 2"),
        (["--given", tmp_path / "two", "--width", "10"], "given frames are 8x8 and the clip is 8x10"),
    ]:
        assert told in refused(capsys, monkeypatch, *words, "--out", tmp_path / "c", *more)


def run(words, out):
    done = run_ditzoo(*words, "--out", out)
    assert done.returncode == 0, done.stderr


def test_rolling_with_a_window_of_the_clip_ends_in_data_and_sees_no_more_than_its_window(zoo):
    """The exact denoiser of one known clip is rolled to that clip, at any length."""
    schedule, clip = spec_of(zoo).schedule.build(), torch.randn(1, 1, 20, 4, 4)
    looks = []

    def oracle(x, t):
        own = clip[:, :, oracle.lo : oracle.lo + x.shape[2]]
        looks.append((x.shape[2], t.flatten().tolist()))
        alpha, sigma = schedule.alpha_sigma(t)
        eps = (x - expand(alpha, x) * own) / expand(sigma.clamp(min=1e-9), x)
        first = (t[0] <= t[0, 0] + 1e-12).sum() if t[0, 0] == 0 else 0
        assert int(first) in range(x.shape[2])
        return Prediction(own.expand_as(x), eps)

    x, noise = torch.randn(1, 1, 20, 4, 4), Noise.seeded(0, [0])
    steps, window = 92, 5
    oracle.lo, before = 0, x
    for step, after in enumerate(
        zoo.part("sampler", {"kind": "rolling", "window": window}).build().trajectory(oracle, x, schedule, steps, noise), 1
    ):
        done = 24 * step / steps - 4
        changed = (after != before).flatten(3).any(-1)[0, 0].nonzero().flatten().tolist()
        assert changed == list(range(changed[0], changed[-1] + 1)) or not changed
        assert len(changed) <= window
        whole = int(done + 1e-9) if done > 0 else 0
        torch.testing.assert_close(after[:, :, :whole], clip[:, :, :whole], atol=1e-5, rtol=0)
        oracle.lo, before = min(whole, 20 - window), after
    torch.testing.assert_close(after, clip, atol=1e-5, rtol=0)
    assert {size for size, _ in looks} == {window}
    assert all(list(times) == sorted(times) for _, times in looks)
    assert looks[50][1] != looks[0][1]
    with pytest.raises(SamplingError, match="4 steps roll past some of 20 frames with a window of 5; take 5 at least"):
        next(zoo.part("sampler", {"kind": "rolling", "window": window}).build().trajectory(oracle, x, schedule, 4, noise))


@pytest.mark.parametrize("sampler", [{"kind": "rolling", "window": 6}, {"kind": "early-exit", "inner": {"kind": "rolling", "window": 6}}])
def test_a_model_rolls_to_any_length(zoo, sampler):
    exits = {"exits": {"kind": "offset", "at": [1]}} if sampler["kind"] == "early-exit" else {}
    model = wake(build(spec_of(zoo, {"patch": [2, 2, 2]}, sampler=sampler, guidance={"scale": 2.0}, **exits)))
    drawn = model.sample(class_labels=[0, 1], num_frames=20, num_inference_steps=25, output_type="pt")
    assert drawn.images.shape == (2, 1, 20, 8, 8)
    assert drawn.ledger.calls == 25
    alone = model.sample(class_labels=[1], num_frames=20, num_inference_steps=25, output_type="pt", first_index=1).images
    torch.testing.assert_close(alone[0], drawn.images[1], atol=1e-5, rtol=0)
    with pytest.raises(SamplingError, match="draws a clip by windows and takes no given frames; choose another, as euler"):
        model.sample(class_labels=0, given=frames_of(1))


def test_rolling_needs_frame_times_a_window_that_the_patch_divides_and_no_memory_of_a_place(zoo):
    residual = {"kind": "early-exit", "inner": {"kind": "rolling", "window": 6}, "policy": {"kind": "exit-residual", "prefix": 1}}
    with pytest.raises(SpecError, match="'exit-residual' remembers the last look at the same frames, and this sampler moves on"):
        spec_of(zoo, sampler=residual)
    with pytest.raises(
        SpecError, match="sampler 'rolling' gives every frame a time of its own, and backbone 'video-dit' as declared has one"
    ):
        spec_of(zoo, {"frame_times": False}, sampler={"kind": "rolling"})
    with pytest.raises(SpecError, match="sampler.window=5: patch=2x2x2 does not divide the latent 5x8x8; nearest latent: 4x8x8"):
        spec_of(zoo, {"patch": [2, 2, 2]}, sampler={"kind": "rolling", "window": 5})
