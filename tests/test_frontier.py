"""A frontier: what it concludes from rows that are known, how it takes times, and the whole command on a tiny model."""

from __future__ import annotations

import json
import subprocess

import pytest
import torch
from conftest import run_ditzoo, tiny, wake
from ditzoo_dynamic.figure import round_numbers
from ditzoo_dynamic.points import Plan, Point, as_toml, dynamic, full, inline, read_plan
from ditzoo_dynamic.timing import interleaved, ratios
from ditzoo_dynamic.verdict import Row, by_budget, envelope, gains, pick, sentence, table, time_for
from PIL import Image
from runs import launched
from test_evaluation import GREY, PROTOCOL

from ditzoo.assemble import build
from ditzoo.catalogue import override
from ditzoo.errors import EvaluationError, SpecError


def row(name, time, distance, family="full", loss=0.0, upper=None, interval=None):
    low_high = interval or (distance - 0.5, distance + 0.5)
    bounds = (loss - 0.01, loss + 0.01 if upper is None else upper)
    return Row(name, family, time, (time, time), 100, 1, distance, low_high, loss, bounds, 0.9)


FULL = [row("full 20", 1.0, 10), row("full 10", 0.5, 12), row("worse 10", 0.5, 14), row("full 5", 0.25, 20), row("slow 5", 0.3, 21)]


def test_the_envelope_is_what_no_other_beats_and_is_followed_in_log_time():
    front = envelope(FULL)
    assert [one.name for one in front] == ["full 5", "full 10", "full 20"]
    assert time_for(11, front) == pytest.approx(0.5**0.5)
    assert time_for(16, front) == pytest.approx(0.125**0.5)
    assert time_for(25, front) == 0.25
    assert time_for(9, front) is None


def test_a_gain_is_told_against_the_best_of_full_depth_in_as_much_time():
    rows = [*FULL, row("early a", 0.4, 12, "dynamic"), row("early b", 0.125, 20, "dynamic"), row("early c", 0.9, 12.2, "dynamic")]
    assert {one["name"]: round(one["faster"], 3) for one in gains(rows)}["early b"] == 2.0
    assert {one["name"]: one["faster"] for one in gains(rows)}["early a"] == pytest.approx(0.5 / 0.4)
    verdicts = {one["budget"]: one["verdict"] for one in by_budget(rows)}
    assert verdicts[0.1] == "none"
    assert verdicts[0.15] == "dynamic alone"
    assert verdicts[0.4] == "gain"
    assert verdicts[0.5] == "gain within the interval"  # as good as the best solver, no better
    assert verdicts[1.0] == "no gain"
    assert "up to 2.00 times as fast (early b)" in sentence(rows)
    faster_and_worse = row("early d", 0.1, 25, "dynamic")
    assert "early d" not in [one["name"] for one in gains([*rows, faster_and_worse])]
    assert "up to 2.00 times as fast (early b)" in sentence([*rows, faster_and_worse])
    losing = [*FULL, row("early", 0.6, 13, "dynamic")]
    assert sentence(losing) == "no gain: at every time budget some solver at full depth is as good"
    assert {one["budget"]: one["verdict"] for one in by_budget(losing)}[0.6] == "no gain"
    assert "reach distances that full depth does not" in sentence([*FULL, row("early", 0.6, 9, "dynamic")])


def test_a_setting_is_picked_by_the_upper_bound_of_its_loss_or_by_its_time():
    rows = [
        *(row(one.name, one.time, one.distance, loss=one.distance / 10 - 1) for one in FULL),
        row("sure", 0.45, 10.1, "dynamic", 0.01, 0.019),
        row("unsure", 0.2, 10.05, "dynamic", 0.01, 0.03),
    ]
    assert pick(rows, loss=0.02).name == "sure"
    assert pick(rows, loss=0.03).name == "unsure"
    assert pick(rows[:5], loss=-1.0) is None
    assert pick(rows, time=0.3).name == "unsure"
    assert pick(rows, time=0.1) is None
    assert table(rows, "distance").splitlines()[2].startswith("| **unsure** | 0.200 |")


def test_times_are_taken_in_turns_and_told_in_shares_of_the_reference(monkeypatch):
    order, clock = [], [0.0]
    monkeypatch.setattr("ditzoo_dynamic.timing.time.perf_counter", lambda: clock[0])

    def work(way, seconds):
        order.append(way)
        clock[0] += seconds

    found = ratios(interleaved([lambda: work(0, 4.0), lambda: work(1, 2.0)], 4), 0)
    assert order == [1, 0, 0, 1, 1, 0, 0, 1, 1, 0]
    assert found == [(1, 1, 1), (0.5, 0.5, 0.5)]
    seconds = torch.tensor([[2.0, 1.0], [4.0, 1.0], [2.0, 1.0]], dtype=torch.float64)
    assert ratios(seconds, 0)[1].median == 0.5


def test_a_setting_is_written_as_it_is_read():
    data = {"kind": "early-exit", "inner": {"kind": "ddim", "clip": 1.0, "keep_eps": True}, "threshold": [0.1, 2], "policy": None}
    assert override({}, [f"sampler={inline(data)}"]) == {"sampler": {name: value for name, value in data.items() if value is not None}}


@pytest.fixture(scope="module")
def exited(zoo):
    data = tiny(**GREY | {"backbone": GREY["backbone"] | {"depth": 8}}, exits={"kind": "offset", "at": [2, 4, 6]}, guidance={"scale": 2.0})
    return wake(build(zoo.model(data | {"sampler": {"kind": "ddim", "clip": 1.0}})))


def test_the_points_of_a_model_clip_as_it_does_and_none_has_an_order_beyond_its_steps(zoo, exited, tmp_path):
    points = [*full(exited.spec, (2, 20)), *dynamic(exited.spec, "unipc", (20,), {})]
    names = [point.name for point in points]
    assert "ddim 2" in names
    assert {"unipc 20, residuals every 2, guided to 0.8", "unipc 20, internal 4", "unipc 20, null 2"} <= set(names)
    for point in points:
        spec = zoo.model(override(json.loads(exited.spec.model_dump_json()), point.settings))
        assert getattr(spec.sampler, "inner", spec.sampler).clip == 1.0
    plain = exited.spec.model_copy(update={"exits": None})
    unguided = plain.model_copy(update={"guidance": plain.guidance.model_copy(update={"scale": 1.0})})
    assert [point.name for point in dynamic(unguided, "ddim", (20,), {})] == [f"ddim 20, residuals every {every}" for every in (2, 3, 4)]
    less = list(full(exited.spec, (4, 5), of=("ddim",), guided_to=0.8))
    assert [point.name for point in less] == ["ddim 4, guided to 0.8", "ddim 5, guided to 0.8"]
    assert zoo.model(override(json.loads(exited.spec.model_dump_json()), less[0].settings)).guidance.interval == (0.0, 0.8)
    plan = Plan(protocol="fashion", reference="ddim 20", points=tuple(points))
    (tmp_path / "plan.toml").write_text(as_toml(plan))
    assert read_plan(tmp_path / "plan.toml", zoo) == plan
    (tmp_path / "plan.toml").write_text(as_toml(plan).replace('"ddim 20"', '"ddim 21"', 1))
    with pytest.raises(SpecError, match="reference 'ddim 21' is none of the points"):
        read_plan(tmp_path / "plan.toml", zoo)


@pytest.mark.slow
def test_the_command_measures_a_model_and_goes_on_where_it_was(exited, tmp_path, idx_folder, monkeypatch):
    monkeypatch.setenv("DITZOO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "small.toml").write_text(PROTOCOL.format(folder=idx_folder).replace('settings = ["sampling.steps=2"]', ""))
    exited.save_pretrained(tmp_path / "model")
    words = ["frontier", f"local-dir:{tmp_path / 'model'}", "-o", tmp_path / "out", "--rounds", "3", "--batch-size", "2", "--json"]
    first = run_ditzoo(*words, "--protocol", tmp_path / "small.toml", "--count", "50", "--steps", "2", "--within", "9", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    made = json.loads(first.stdout)
    assert made["reference"] == "ddim 2"
    assert made["pictures"] == 50
    rows = {one["name"]: one for one in made["rows"]}
    assert rows["ddim 2"]["time"] == 1
    assert rows["ddim 2"]["loss"] == 0
    assert rows["ddim 2"]["blocks"] == 2 * 2 * 8
    assert rows["ddim 2, all 4"]["blocks"] == 2 * (4 + 4)
    assert rows["ddim 2, internal 4"]["blocks"] == 2 * 8
    assert rows["ddim 2, guided to 0.8"]["blocks"] == 8 + 2 * 8
    assert rows["ddim 2, all 4"]["macs"] < 0.6 * rows["ddim 2"]["macs"]
    assert rows["ddim 2, table 0.45"]["blocks"] <= 0.45 * 32
    assert made["picked"] in rows
    assert (tmp_path / "out" / "frontier.md").read_text().count("\n|") == len(rows) + 1
    assert Image.open(tmp_path / "out" / "frontier.png").size[0] > 600
    again = run_ditzoo(*words, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    kept = {one["name"]: one["distance"] for one in json.loads(again.stdout)["rows"]}
    assert kept == {name: one["distance"] for name, one in rows.items()}
    assert "samples of" not in again.stderr  # nothing is drawn anew


@pytest.mark.slow
def test_processes_share_the_pictures_and_one_takes_the_times(exited, tmp_path, idx_folder, monkeypatch):
    monkeypatch.setenv("DITZOO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "small.toml").write_text(PROTOCOL.format(folder=idx_folder).replace('settings = ["sampling.steps=2"]', ""))
    exited.save_pretrained(tmp_path / "model")
    points = [Point(name=f"{steps} steps", family="full", settings=(f"sampling.steps={steps}",)) for steps in (2, 3)]
    plan = Plan(protocol=str(tmp_path / "small.toml"), count=100, reference="3 steps", points=tuple(points))
    (tmp_path / "plan.toml").write_text(as_toml(plan))
    words = ["frontier", f"local-dir:{tmp_path / 'model'}", "-o", str(tmp_path / "out"), "--rounds", "3", "--batch-size", "2"]
    words += ["--plan", str(tmp_path / "plan.toml")]
    for refused in (words, [*words[:-2], "--no-times"]):
        done = run_ditzoo(*refused, env={"WORLD_SIZE": "2"})
        assert done.returncode == 2
        assert "2 processes were started" in done.stderr
    done = subprocess.run([*launched(2), *words, "--no-times"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "out" / "frontier.json").exists()
    done = run_ditzoo(*words, "--json")
    assert done.returncode == 0, done.stderr
    assert "samples of" not in done.stderr
    assert [row["name"] for row in json.loads(done.stdout)["rows"]] == ["2 steps", "3 steps"]


def test_points_of_another_network_are_refused(zoo, exited):
    from ditzoo_dynamic.points import check

    plan = Plan(
        protocol="fashion",
        reference="a",
        points=tuple(point.model_copy(update={"name": name}) for name, point in zip("ab", full(exited.spec, (4, 5)), strict=False)),
    )
    other = exited.spec.model_copy(update={"exits": None})
    with pytest.raises(EvaluationError, match="point 'b' has another exits than 'a'; name the model that it is of: model = ..."):
        check(plan, {"a": exited.spec, "b": other})


@pytest.mark.parametrize(("low", "high", "found"), [(2.8, 5.4, [3, 4, 5]), (1.0, 15.1, [1, 2, 5, 10]), (0.02, 300, [0.1, 1, 10, 100])])
def test_axes_have_round_numbers(low, high, found):
    assert round_numbers(low, high) == pytest.approx(found)
