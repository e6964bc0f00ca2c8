"""Blocks recorded as CUDA graphs: what is copied in and out, when they are recorded and when not. A GPU is stood in for."""

from __future__ import annotations

from typing import ClassVar

import ditzoo_runtime.graphs as graphs
import pytest
import torch
from conftest import assert_near, compositions, tiny, wake

from ditzoo.assemble import build
from ditzoo.errors import SpecError


class StandIn(graphs.Graph):
    """Runs the recorded blocks on what lies where they read, and leaves the result where they first left it, as a GPU would."""

    made_of: ClassVar[list[StandIn]] = []

    def record(self, run, stream):
        self.again, self.replays = lambda: run(stream), 0
        self.made_of.append(self)
        return run(stream)

    def launch(self):
        self.replays += 1
        found = graphs.tensors(self.again())
        for name, place in self.writes.items():
            place.copy_(found[name])


@pytest.fixture(autouse=True)
def stood_in(monkeypatch):
    monkeypatch.setattr(graphs, "Graph", StandIn)
    monkeypatch.setattr(graphs, "recordable", lambda backbone: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(StandIn, "made_of", [])


def recorded(zoo, spec):
    model = wake(build(spec)).requires_grad_(False)
    model.runtime = zoo.part("runtime", "cuda-graphs").build()
    return model


@torch.no_grad()
def test_every_composition_is_the_plain_one(zoo, strangers_zoo):
    for spec in [*compositions(zoo), *compositions(strangers_zoo)]:
        try:
            model = recorded(zoo, spec)
        except SpecError:
            continue  # dydit slices the plain attention alone, and says so when it is built
        found = [model.sample(num_images=3, output_type="latent", seed=seed).images for seed in (0, 1)]
        model.runtime = None
        for seed, one in enumerate(found):
            assert_near(one, model.sample(num_images=3, output_type="latent", seed=seed).images)
    assert sum(graph.replays for graph in StandIn.made_of) > 100


@torch.no_grad()
def test_a_size_is_recorded_when_it_comes_again_and_its_results_stay(zoo):
    model = recorded(zoo, zoo.model(tiny()))
    backbone, cond = model.runner, model.prompt.encode([0, 1])
    asked = [torch.randn(2, 3, 8, 8) for _ in range(4)]
    t = torch.tensor([10.0, 700.0])
    made = [backbone(x, t, cond) for x in asked]
    assert [graph.replays for graph in StandIn.made_of] == [3]
    assert model.runtime.told == "eager, as CUDA graphs"
    for x, one in zip(asked, made, strict=True):
        assert_near(one, model.backbone(x, t, cond))
    backbone(asked[0][:1], t[:1], model.prompt.encode([2]))
    assert len(StandIn.made_of) == 1
    stream = backbone.begin(asked[0], t, cond)
    halves = [backbone.run(backbone.run(stream, 0, 1), 1, 3).tokens for _ in range(3)]
    assert len(StandIn.made_of) == 3
    assert all(torch.equal(half, backbone.run(stream, 0, 3).tokens) for half in halves)


def test_what_is_watched_runs_as_it_is(zoo):
    model = recorded(zoo, zoo.model(tiny()))
    with torch.no_grad():
        backbone, cond = model.runner, model.prompt.encode([0, 1])
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([10.0, 700.0])
    for _ in range(3):
        backbone(x, t, cond)  # gradients are asked for
    with torch.no_grad():
        seen = []
        hook = backbone.blocks[0].register_forward_hook(lambda *given: seen.append(1))
        for _ in range(3):
            backbone(x, t, cond)
        hook.remove()
    assert len(seen) == 3
    assert not StandIn.made_of


@torch.no_grad()
def test_what_cannot_be_recorded_is_tried_once_and_runs(zoo, monkeypatch):
    tried = []

    def refuses(self, run, stream):
        tried.append(1)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(StandIn, "record", refuses)
    model = recorded(zoo, zoo.model(tiny()))
    x, t, cond = torch.randn(2, 3, 8, 8), torch.tensor([10.0, 700.0]), model.prompt.encode([0, 1])
    found = [model.runner(x, t, cond) for _ in range(4)]
    assert len(tried) == 1
    assert all(torch.equal(one, model.backbone(x, t, cond)) for one in found)


@torch.no_grad()
def test_the_oldest_graphs_make_room(zoo, monkeypatch):
    monkeypatch.setattr(graphs, "KEPT", 2)
    model = recorded(zoo, zoo.model(tiny()))
    for rows in (1, 2, 3):
        for _ in range(2):
            model.runner(torch.randn(rows, 3, 8, 8), torch.full((rows,), 9.0), model.prompt.encode([0] * rows))
    assert len(StandIn.made_of) == 3
    assert len(model.runner.recorded.graphs) == 2


@pytest.mark.parametrize("inner", ["by-rows", "by-tokens", "cuda-graphs"])
def test_what_cannot_be_inside_is_refused(zoo, inner):
    inside = {"kind": inner, "inner": "fused"} if inner != "cuda-graphs" else "cuda-graphs"
    with pytest.raises(ValueError, match="cannot be recorded; take eager or compile"):
        zoo.part("runtime", {"kind": "cuda-graphs", "inner": inside})


def test_without_a_gpu_it_is_what_is_inside(zoo, monkeypatch):
    monkeypatch.undo()
    model = recorded(zoo, zoo.model(tiny()))
    with torch.no_grad():
        assert model.runner is model.backbone
    assert model.runtime.told == "eager"
