"""Video: attention in groups is masked attention, one frame is an image, positions are relative, any size and duration."""

import itertools
import math
import random

import pytest
import torch
import torch.nn.functional as F

from ditzoo.assemble import build
from ditzoo.errors import SamplingError, SpecError
from ditzoo.model_spec import ModelSpec
from ditzoo.packing import Pack

TINY = {"kind": "video-dit", "width": 48, "depth": 4, "heads": 2, "in_channels": 3, "input_size": [4, 8, 8]}
PATTERNS = [{"kind": "joint"}, {"kind": "factorised"}, {"kind": "windowed", "window": [2, 3, 4]}]
CONDITIONINGS = ("adaln-zero", "adaln", "cross-attention", "in-context")


def spec_of(zoo, conditioning="adaln-zero", **backbone):
    data = {
        "name": "tiny-video",
        "backbone": TINY | backbone,
        "conditioning": {"kind": conditioning},
        "prompt": {"kind": "label", "classes": 3},
        "schedule": {"kind": "flow", "prediction": "velocity"},
        "sampler": {"kind": "euler"},
        "codec": {"kind": "pixels", "channels": 3},
        "sampling": {"steps": 2},
    }
    return zoo.validate(ModelSpec, data, source="tiny-video")


def lively(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern["kind"])
@pytest.mark.parametrize("beyond", [0, 3])
def test_attention_in_groups_is_attention_under_their_mask(zoo, pattern, beyond):
    from ditzoo_video.attention import planned, within

    grid = (3, 5, 6)
    count = math.prod(grid)
    q, k, v = torch.randn(3, 2, 4, count + beyond, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    keep = torch.ones(2, count + beyond, dtype=torch.bool)
    if beyond:
        keep[1, -1] = False
    made = zoo.kinds["attention"][pattern["kind"]].model_validate(pattern).build()
    for block in range(2):
        groups = made.groups(grid, block)
        assert sorted(torch.cat([rows.flatten() for rows in groups]).tolist()) == list(range(count))
        allowed = torch.zeros(count + beyond, count + beyond, dtype=torch.bool)
        for rows in groups:
            for row in rows:
                allowed[row[:, None], row] = True
        allowed[count:] = allowed[:, count:] = True
        expected = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed & keep[:, None, None])
        found = within(planned(made, (grid,), block, beyond, q.device), q, k, v, keep if beyond else None)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_windows_of_the_next_block_reach_over_the_edges_of_this_ones(zoo):
    made = zoo.kinds["attention"]["windowed"].model_validate({"window": [2, 4, 4]}).build()
    sizes = [sorted({rows.shape[1] for rows in made.groups((4, 8, 8), block)}) for block in (0, 1)]
    assert sizes == [[32], [4, 8, 16, 32]]
    assert [sorted({rows.shape[1] for rows in made.groups((4, 4, 3), block)}) for block in (0, 1)] == [
        [24],
        [12, 24],
    ]  # only time is longer
    apart = [{frozenset(row.tolist()) for rows in made.groups((4, 8, 8), block) for row in rows} for block in (0, 1)]
    assert not apart[0] & apart[1]


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_one_frame_is_what_the_image_backbone_makes_of_it(zoo, conditioning):
    video = spec_of(zoo, conditioning, positions={"kind": "sincos"})
    image = zoo.validate(
        ModelSpec, video.model_dump() | {"backbone": TINY | {"kind": "dit", "input_size": [8, 8], "learn_sigma": False}}, source="x"
    )
    ours, theirs = lively(build(video)), build(image)
    theirs.load_state_dict(ours.state_dict())
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([0.2, 0.9])
    with torch.no_grad():
        expected = theirs(x, t, [0, 2])
        torch.testing.assert_close(ours(x[:, :, None], t, [0, 2])[:, :, 0], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("conditioning", "pattern"), list(itertools.product(CONDITIONINGS, PATTERNS)))
def test_any_size_runs_split_anywhere_and_rows_do_not_see_each_other(zoo, conditioning, pattern):
    spec = spec_of(zoo, conditioning, attention=pattern, positions={"kind": "sincos", "joins": 1})
    model = lively(build(spec))
    with torch.no_grad():
        for size in [(4, 8, 8), (1, 6, 10), (5, 4, 12)]:
            x, t, cond = torch.randn(3, 3, *size), torch.tensor([0.1, 0.5, 0.9]), model.prompt.encode([0, 1, 2])
            whole = model.backbone(x, t, cond)
            for cut in range(5):
                begun = model.backbone.run(model.backbone.begin(x, t, cond), 0, cut)
                assert torch.equal(model.backbone.read(model.backbone.run(begun, cut, 4)), whole)
            alone = model.backbone(x[1:2], t[1:2], cond.rows(slice(1, 2)))
            torch.testing.assert_close(alone, whole[1:2], atol=1e-5, rtol=0)


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern["kind"])
@pytest.mark.parametrize("conditioning", [*CONDITIONINGS, "adaln-single", "joint-attention"])
def test_a_clip_in_a_pack_is_the_clip_alone(zoo, conditioning, pattern):
    """Five mixes for each of the eighteen pairs."""
    prompt = {"kind": "text-tokens", "vocabulary": ["red", "green", "blue"], "heads": 2} if "joint" in conditioning else None
    positions = {"kind": "rotary"} if pattern["kind"] == "joint" else {"kind": "sincos", "joins": 1}
    spec = spec_of(zoo, conditioning, attention=pattern, positions=positions)
    if prompt is not None:
        spec = zoo.validate(ModelSpec, spec.model_dump() | {"prompt": prompt}, source="x")
    model, draw = lively(build(spec)), random.Random(0)
    words = ["red", "green blue", "blue red green"] if prompt else [0, 1, 2]
    for mix in range(5):
        sizes = [(draw.randint(1, 5), 2 * draw.randint(1, 5), 2 * draw.randint(1, 5)) for _ in range(draw.randint(1, 4))]
        clips = [torch.randn(3, *size, generator=torch.Generator().manual_seed(mix)) for size in sizes]
        t, items = torch.rand(len(clips)), [draw.choice(words) for _ in clips]
        with torch.no_grad():
            pack, cond = Pack.of(clips, spec.backbone.patch), model.prompt.encode(items)
            assert all(map(torch.equal, pack.clips(), clips))
            whole = Pack(model.backbone(pack, t, cond), pack.packing).clips()
            for index, clip in enumerate(clips):
                alone = model.backbone(clip[None], t[index : index + 1], model.prompt.encode(items[index : index + 1]))[0]
                torch.testing.assert_close(whole[index], alone, atol=1e-5, rtol=1e-5)


def test_a_pack_is_refused_where_attention_would_mix_its_clips(zoo):
    data = spec_of(zoo).model_dump() | {"backbone": TINY | {"kind": "dit", "input_size": [8, 8], "learn_sigma": False}}
    model = build(zoo.validate(ModelSpec, data, source="x"))
    pack = Pack.of([torch.randn(3, 8, 8)] * 2, (2, 2))
    with pytest.raises(ValueError, match="DiT has no attention that keeps packed clips apart; give it batches of one size"):
        model.backbone(pack, torch.rand(2), model.prompt.encode([0, 1]))


def test_rotary_positions_tell_differences_alone_and_spare_what_is_no_token_of_the_grid(zoo):
    from ditzoo_video.attention import turned

    rotary = zoo.kinds["positions"]["rotary"].model_validate({}).build(64, 2, (8, 8, 8))
    angles = rotary.angles((4, 5, 6)).view(4, 5, 6, 16)
    q, k = torch.randn(2, 1, 1, 1, 32, generator=torch.Generator().manual_seed(0)).unbind(0)

    def score(here, there):
        return float((turned(q, angles[here][None]) * turned(k, angles[there][None])).sum())

    assert score((0, 1, 2), (2, 1, 4)) == pytest.approx(score((1, 2, 3), (3, 2, 5)), abs=1e-4)
    assert abs(score((0, 1, 2), (2, 1, 4)) - score((0, 1, 2), (2, 4, 4))) > 1e-2
    behind = torch.randn(1, 1, 3, 32)
    assert torch.equal(turned(behind, angles[0, 0, 1:2])[:, :, 1:], behind[:, :, 1:])


@pytest.mark.parametrize("kind", ["sincos", "rotary"])
def test_beyond_the_trained_grid_positions_go_on_or_are_squeezed_into_its_range(zoo, kind):
    def made(beyond, trained):
        built = zoo.kinds["positions"][kind].model_validate({"beyond": beyond}).build(48, 2, trained)
        return built.tables((8, 4, 4))[0] if kind == "sincos" else built.angles((8, 4, 4))

    within, extended, squeezed = made("extend", (8, 4, 4)), made("extend", (4, 4, 4)), made("interpolate", (4, 4, 4))
    assert torch.equal(within, extended)
    halves = made("interpolate", (8, 4, 4))[::16][:4]
    torch.testing.assert_close(squeezed[::32], halves)


def test_sizes_that_the_patch_does_not_divide_are_refused_with_the_nearest(zoo):
    spec = spec_of(zoo, patch=[2, 2, 2])
    model = build(spec)
    for asked, told in [
        ({"num_frames": 5}, "patch=2x2x2 does not divide the latent 5x8x8; nearest latent: 4x8x8"),
        ({"num_frames": 1}, "nearest latent: 2x8x8"),
        ({"height": 9}, "nearest latent: 4x8x8"),
    ]:
        with pytest.raises(SamplingError, match=told):
            model.sample(class_labels=0, **asked)
    with pytest.raises(SpecError, match="a head has 9; choose backbone.width=40"):
        spec_of(zoo, width=36, heads=4)


def test_a_clip_is_what_its_caption_says_and_depends_on_seed_and_index_alone(zoo):
    made = [zoo.part("dataset", {"kind": "moving-fashion", "count": 60, "unsaid": unsaid}).build() for unsaid in (0, 0.9)]
    plain, terse = made
    size = {index: plain.size_of(index) for index in range(60)}
    assert len(set(size.values())) > 5
    shown = dict.fromkeys(plain.values["motion"], False)
    for index in range(60):
        item = plain[index]
        article, motion, speed = item["item"].split(", ")
        assert [article, motion, speed] == [plain.values[name][n] for name, n in zip(plain.values, plain.attributes[index], strict=True)]
        assert item["pixels"].shape == (1, *size[index])
        frames, pixels = item["pixels"][0] / 2 + 0.5, 2 if speed == "fast" else 1
        goes = {"left": (0, -pixels), "right": (0, pixels), "up": (-pixels, 0), "down": (pixels, 0)}.get(motion)
        if goes is not None:
            assert torch.equal(frames[1:], frames[:-1].roll(goes, (1, 2)))
            shown[motion] = True
        assert torch.equal(terse[index]["pixels"], item["pixels"])
        assert set(terse[index]["item"].split(", ")) <= {article, motion, speed}
    assert all(shown[motion] for motion in ("left", "right", "up", "down"))
    with pytest.raises(SpecError, match="articles are 28x28, and the smallest clip is 20x28"):
        zoo.validate(type(plain.spec), {"heights": [20]}, source="x")


def test_clips_have_the_motions_that_are_listed_and_what_is_there_twice_comes_twice_as_often(zoo):
    fields = {"kind": "moving-fashion", "count": 600, "frames": [1, 8, 1], "motions": ["clockwise", "down", "clockwise"], "unsaid": 0}
    made = zoo.part("dataset", fields).build()
    assert len(made.spec.item_sizes) == 12
    told = [made.told(index) for index in range(600)]
    assert {one.motion for one in told} == {3, 4}
    for twice in (sum(one.motion == 4 for one in told), sum(one.size[0] == 1 for one in told)):
        assert 360 < twice < 440
    stills = [made[index] for index in range(12) if told[index].size[0] == 1]
    assert stills
    assert all(item["pixels"].shape[:2] == (1, 1) for item in stills)
    plain = zoo.part("dataset", fields | {"upright": 0.5}).build()
    same = [torch.equal(made[index]["pixels"], plain[index]["pixels"]) for index in range(60)]
    assert all(same[index] for index in range(60) if told[index].motion == 3)
    assert 5 < same.count(False) < 35
    for index in [index for index in range(60) if not same[index]][:5]:
        first, stands = plain[index]["pixels"][0, 0], plain.articles[index]["pixels"][0]
        assert any(
            torch.allclose(first[top : top + 28, left : left + 28], stands, atol=1e-5)
            for top in range(first.shape[0] - 27)
            for left in range(first.shape[1] - 27)
        )
    with pytest.raises(SpecError, match="motions.*at least 1 item"):
        zoo.validate(type(made.spec), {"motions": []}, source="x")
