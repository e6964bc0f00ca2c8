"""The bench tells what it measured, beside diffusers where it has the network."""

from __future__ import annotations

import csv
import io

import pytest
from conftest import refused, run_ditzoo, tiny

from ditzoo.bench import COLUMNS, as_csv, bench, counterpart
from ditzoo.places import Folder
from ditzoo.sources import Found


def test_rows_beside_diffusers(zoo, tmp_path):
    spec = zoo.model(tiny(backbone={"in_channels": 4}, codec={"channels": 4}))
    rows = bench(Found("tiny", spec, Folder(tmp_path), zoo), [1, 3], repeats=2)
    assert [row["batch"] for row in rows] == [1, 3]
    for row in rows:
        assert tuple(row) == COLUMNS
        assert row["against"] == "diffusers"
        assert row["ratio"] > 0
        assert row["images_per_second"] == pytest.approx(row["batch"] / row["ms"] * 1e3, rel=0.02)
    assert rows[1]["activations_mb"] >= rows[0]["activations_mb"]
    read = list(csv.DictReader(io.StringIO(as_csv(rows))))
    assert [row["model"] for row in read] == ["tiny", "tiny"]


def test_a_network_that_diffusers_has_not_runs_alone(zoo, tmp_path):
    for changes in ({"conditioning": {"kind": "adaln"}}, {"backbone": {"input_size": [8, 16]}}):
        assert counterpart(zoo.model(tiny(**changes)), zoo) == (None, None)
    (row,) = bench(Found("tiny", zoo.model(tiny(conditioning={"kind": "adaln"})), Folder(tmp_path), zoo), [2], repeats=1)
    assert (row["against"], row["ratio"]) == ("", "")


def test_the_counterpart_has_the_same_shape(zoo):
    spec = zoo.model(tiny(backbone={"in_channels": 4}, codec={"channels": 4}))
    network = counterpart(spec, zoo)[1]
    assert network.config.num_layers == spec.backbone.depth
    assert network.inner_dim == spec.backbone.width
    assert network.config.sample_size == spec.backbone.input_size[0]


def test_the_command_writes_a_csv(tmp_path, capsys, monkeypatch):
    done = run_ditzoo("bench", "fashion-dit", "-b", 1, "--repeats", 1, "--alone", "--out", tmp_path / "bench.csv")
    assert done.returncode == 0, done.stderr
    (row,) = csv.DictReader((tmp_path / "bench.csv").open())
    assert (row["model"], row["parameters"]) == ("fashion-dit", "5500432")
    assert "each has to be at least 1" in refused(capsys, monkeypatch, "bench", "fashion-dit", "-b", 0)
    assert "no model 'fashion-dti'" in refused(capsys, monkeypatch, "bench", "fashion-dti")
