"""Rows shared out among cores: the same pictures, whole where they had better be, and nothing lost of what watches a run."""

from __future__ import annotations

import copy
import os

import ditzoo_runtime.choice as choosing
import ditzoo_runtime.rows as sharing
import pytest
import torch
from conftest import assert_near, compositions, tiny, wake
from ditzoo_runtime.rows import in_parts, joined, shared, slices_of
from torch.utils.flop_counter import FlopCounterMode

from ditzoo.assemble import build
from ditzoo.errors import SpecError
from ditzoo.layers import Attention

BY_ROWS = {"kind": "by-rows", "inner": "fused"}


@pytest.fixture(autouse=True)
def two_cores(monkeypatch, tmp_path):
    """Two threads, and tiny models are enough to share out."""
    monkeypatch.setenv("DITZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sharing, "LEAST", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def parts(monkeypatch):
    """How many parts each run of blocks had."""
    seen = []
    monkeypatch.setattr(sharing, "in_parts", lambda work, parts: seen.append(len(parts)) or in_parts(work, parts))
    return seen


def made(zoo, **changes):
    model = wake(build(zoo.model(tiny(guidance={"scale": 2.0}, **changes)))).requires_grad_(False)
    model.runtime = zoo.part("runtime", BY_ROWS).build()
    return model


def begun(model, rows=4):
    with torch.no_grad():
        cond = model.prompt.encode([index % 3 for index in range(rows)])
        return model.runner.begin(torch.randn(rows, 3, 8, 8), torch.linspace(10, 900, rows), cond)


@torch.no_grad()
def test_every_composition_is_the_plain_one(zoo, strangers_zoo, parts):
    shared_out = set()
    for spec in [*compositions(zoo), *compositions(strangers_zoo)]:
        try:
            model = wake(build(spec)).requires_grad_(False)
        except SpecError:
            continue  # dydit slices the plain attention alone
        plain = model.sample(num_images=3, output_type="latent").images
        model.runtime = zoo.part("runtime", BY_ROWS).build()
        parts.clear()
        assert_near(model.sample(num_images=3, output_type="latent").images, plain)
        if set(parts) == {2}:
            shared_out.add((spec.backbone.kind, spec.conditioning.kind))
    assert {("dit", "adaln-zero"), ("dit", "in-context"), ("mmdit", "joint-attention"), ("video-dit", "adaln-zero")} <= shared_out


@torch.no_grad()
def test_parts_of_depth_make_the_whole_bit_for_bit_and_what_was_computed_ahead_is_used(zoo, parts):
    model = made(zoo)
    stream = begun(model)
    backbone = model.runner
    whole = backbone.run(stream, 0, 3)
    for middle in range(4):
        assert torch.equal(backbone.run(backbone.run(stream, 0, middle), middle, 3).tokens, whole.tokens)
    assert set(parts) == {2}
    assert whole.vec is stream.vec
    assert whole.cond is stream.cond


@torch.no_grad()
def test_rows_that_are_few_or_uneven_or_light_are_run_together(zoo, monkeypatch):
    model = made(zoo)
    assert [rows.stop - rows.start for rows in slices_of(begun(model, 4))] == [2, 2]
    assert [rows.stop - rows.start for rows in slices_of(begun(model, 11))] == [5, 6]
    assert slices_of(begun(model, 1)) == []
    assert slices_of(begun(model, 3)) == []  # two on one core and one on the other take as long as four
    monkeypatch.setattr(sharing, "LEAST", 3e8)
    assert slices_of(begun(model, 4)) == []
    monkeypatch.setattr(sharing, "LEAST", 0)
    torch.set_num_threads(1)
    assert slices_of(begun(model, 4)) == []


def test_gradients_autocast_and_modes_see_all(zoo, parts):
    model = made(zoo)
    stream = begun(model)
    with torch.no_grad():
        runner = model.runner
        with FlopCounterMode(display=False) as counted:
            runner.run(stream, 0, 3)
        assert parts == []
        model.runtime = None
        with FlopCounterMode(display=False) as plain:
            model.runner.run(stream, 0, 3)
        assert counted.get_total_flops() == plain.get_total_flops() > 0
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert slices_of(stream) == []
        assert len(slices_of(stream)) == 2
    assert slices_of(stream) == []
    with torch.inference_mode():
        assert runner.run(stream, 0, 3).tokens.is_inference()
        assert parts == [2]


@torch.no_grad()
def test_hooks_are_called_once_with_all_rows(zoo, parts):
    model = made(zoo)
    seen = []
    attention = next(one for one in model.backbone.modules() if isinstance(one, Attention))
    handle = attention.register_forward_hook(lambda module, given, out: seen.append(len(out)))
    model.runner.run(begun(model), 0, 3)
    assert (seen, parts) == ([4], [])
    handle.remove()
    model.runner.run(begun(model), 0, 3)
    assert (seen, parts) == ([4], [2])


@torch.no_grad()
def test_a_thread_computes_by_itself_and_the_number_of_threads_stays():
    assert in_parts(lambda part: (part, torch.get_num_threads(), torch.is_grad_enabled()), [0, 1]) == [(0, 1, False), (1, 1, False)]
    assert torch.get_num_threads() == 2
    torch.set_num_threads(3)
    assert in_parts(lambda part: torch.get_num_threads(), [0, 1, 2]) == [1, 1, 1]
    assert in_parts(lambda part: torch.get_num_threads(), [0, 1]) == [1, 1]
    assert torch.get_num_threads() == 3


def test_what_a_thread_raises_is_raised_and_the_next_run_is_whole(zoo, parts):
    model = made(zoo)
    stream = begun(model)

    def fails(part):
        raise RuntimeError("no room")

    with torch.no_grad():
        with pytest.raises(RuntimeError, match="no room"):
            in_parts(fails, [0, 1])
        assert model.runner.run(stream, 0, 3).tokens.isfinite().all()


@torch.no_grad()
def test_a_forked_process_has_threads_of_its_own():
    in_parts(lambda part: part, [0, 1])
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.write(write, bytes(in_parts(lambda part: part + 1, [0, 1])))
        os._exit(0)
    assert os.read(read, 2) == b"\x01\x02"
    os.waitpid(child, 0)


@torch.no_grad()
def test_fields_that_blocks_change_are_joined_and_others_are_the_whole_streams(zoo):
    stream = begun(made(zoo))
    cut = [stream.rows(slice(0, 2)), stream.rows(slice(2, 4))]
    again = joined(stream, cut, [part + (part - part) for part in cut])
    assert torch.equal(again.tokens, stream.tokens)
    assert all(getattr(again, name) is getattr(stream, name) for name in ("time", "vec", "cond", "positions", "grid"))


def test_it_is_a_view_that_can_be_copied(zoo):
    model = made(zoo)
    with torch.no_grad():
        assert {name: p.data_ptr() for name, p in model.runner.named_parameters()} == {
            name: p.data_ptr() for name, p in model.backbone.named_parameters()
        }
        assert type(shared(model.backbone)) is type(shared(model.backbone))
    assert isinstance(model.runner, type(model.backbone))
    assert copy.deepcopy(model).sample(class_labels=[0, 1]).images


def test_lossy_is_what_its_inner_is(zoo):
    assert zoo.part("runtime", BY_ROWS).lossy is None
    assert "8-bit" in zoo.part("runtime", {"kind": "by-rows", "inner": "int8-dynamic"}).lossy
    assert zoo.part("runtime", BY_ROWS).build().told == "fused, by rows"


@pytest.mark.parametrize(("gain", "told"), [(1.2, "auto: fused, by rows"), (1.01, "auto: fused")])
def test_it_is_chosen_where_it_is_measured_to_be_faster(zoo, monkeypatch, gain, told):
    asked = []
    monkeypatch.setattr(choosing, "gains", lambda *given: {"fused": 1.5})
    monkeypatch.setattr(choosing, "scores_gain", lambda *given: {"scores": 0.9})
    monkeypatch.setattr(choosing, "rows_gain", lambda *given: asked.append(given) or {"rows": gain})
    for _ in range(2):
        model = made(zoo)
        model.runtime = zoo.part("runtime", "auto").build()
        model.sample(class_labels=[0, 1, 2])
        assert model.runtime.told == told
    assert [given[:3] for given in asked] == [(32, 128, 2)]


def test_the_gain_is_measured():
    assert choosing.rows_gain(96, 384, 2, torch.float32, choosing.Way())["rows"] > 0
