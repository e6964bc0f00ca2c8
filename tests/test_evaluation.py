"""An evaluation as a person runs it: resumed, shared out, pinned; on a tiny Fashion-MNIST with the shipped network."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import refused, run_ditzoo, tiny
from runs import launched

import ditzoo
from ditzoo.assemble import build
from ditzoo.errors import DitzooError, EvaluationError
from ditzoo.evaluation.protocol import read_protocol
from ditzoo.evaluation.reference import content_sha256
from ditzoo.evaluation.run import evaluate
from ditzoo.sources import resolve
from ditzoo.training.recipe import read_recipe

PROTOCOL = """
count = 40
seeds = [0, 1]
chunk = 10
kid_subset_size = 20
kid_subsets = 5
resamples = 20
settings = ["sampling.steps=2"]
[features]
kind = "fashion-cnn"
[reference]
kind = "fashion-mnist"
folder = "{folder}"
[floor]
kind = "fashion-mnist"
split = "test"
folder = "{folder}"
"""
GREY = {"backbone": {"in_channels": 1, "input_size": [28, 28], "patch": 7}, "codec": {"channels": 1}, "prompt": {"classes": 10}}


@pytest.fixture
def protocol(tmp_path, idx_folder, monkeypatch):
    monkeypatch.setenv("DITZOO_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "small.toml"
    path.write_text(PROTOCOL.format(folder=idx_folder))
    return path


@pytest.fixture
def model(tmp_path, zoo):
    build(zoo.model(tiny(**GREY))).save_pretrained(tmp_path / "model")
    return f"local-dir:{tmp_path / 'model'}"


def measured(model, protocol, zoo, out, *settings):
    told = read_protocol(str(protocol), zoo, settings)
    return evaluate(resolve(model, zoo, told.settings), told, out)


def test_a_report_has_every_figure_with_its_interval_and_the_floor(model, protocol, zoo, tmp_path):
    done = run_ditzoo("eval", model, "--protocol", protocol, "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    names = {"frechet", "kid", "precision", "recall", "class_confidence", "label_agreement"}
    for figures in (*made["seeds"].values(), made["floor"]):
        assert figures.keys() == names
        for name in ("frechet", "class_confidence", "label_agreement"):
            low, high = figures[name]["interval_95"]
            assert low <= high
    assert made["floor"]["frechet"]["value"] < made["mean"]["frechet"]  # real pictures are nearer to real ones than noise is
    assert made["identity"]["features"] == read_protocol(str(protocol), zoo).features.build().sha256
    assert made["distance_is"] == "Fréchet distance over fashion-cnn"
    row = (tmp_path / "out" / "row.md").read_text()
    assert "Fréchet distance over fashion-cnn" in row
    assert "FID" not in row
    assert (tmp_path / "out" / "grid.png").stat().st_size > 1000


def test_a_recipe_promises_bands_and_a_miss_is_told(model, protocol, recipe, tmp_path):
    promised = tmp_path / "promising.toml"
    bands = "band = {frechet = [1, 1e6], label_agreement = [0.99, 1.0]}"
    promised.write_text(recipe.read_text() + f'\n[evaluation]\nprotocol = "{protocol}"\n{bands}\n')
    done = run_ditzoo("eval", model, "--recipe", promised, "--out", tmp_path / "out")
    assert done.returncode == 1, done.stderr
    assert "frechet: " in done.stdout
    assert ", within the recipe's band 1 to 1e+06." in done.stdout
    assert ", OUTSIDE the recipe's band 0.99 to 1." in done.stdout
    bands = json.loads((tmp_path / "out" / "report.json").read_text())["bands"]
    assert [bands[name]["within"] for name in ("frechet", "label_agreement")] == [True, False]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "give --protocol or --recipe, one of them"),
        (["--recipe", "{recipe}"], "names no protocol; add a table [evaluation], or use --protocol"),
        (["--recipe", "{recipe}", "--protocol", "fashion"], "give --protocol or --recipe, one of them"),
    ],
)
def test_what_to_measure_by_has_to_be_said_once(recipe, capsys, monkeypatch, words, told):
    assert told in refused(capsys, monkeypatch, "eval", "fashion-dit", *(word.format(recipe=recipe) for word in words))


@pytest.mark.parametrize(
    ("band", "told"),
    [
        ("{frechett = [0, 1]}", "unknown figure 'frechett'; did you mean 'frechet'"),
        ("{kid = [2, 1]}", "band of kid is 2 to 1; the lower end"),
    ],
)
def test_a_band_that_cannot_be_is_refused(zoo, recipe, band, told):
    with pytest.raises(DitzooError, match=told):
        read_recipe(str(recipe), zoo, [f'evaluation={{protocol="fashion", band={band}}}'])


def test_killed_midway_it_goes_on_and_gives_the_same_numbers(model, protocol, zoo, tmp_path):
    whole = measured(model, protocol, zoo, tmp_path / "whole")
    command = [sys.executable, "-m", "ditzoo", "eval", model, "--protocol", str(protocol), "--out", str(tmp_path / "cut")]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "cut").glob("seed-0/*[0-9].safetensors")) and time.monotonic() < deadline:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    begun = sorted((tmp_path / "cut").glob("seed-*/*[0-9].safetensors"))
    assert begun
    stamps = {path: path.stat().st_mtime_ns for path in begun}
    begun[0].with_name("0000030.safetensors").write_bytes(b"cut off by a full disk")
    assert measured(model, protocol, zoo, tmp_path / "cut") == whole
    assert all(
        path.stat().st_mtime_ns == stamp for path, stamp in stamps.items() if path.name != "0000030.safetensors"
    )  # none was drawn again


def test_two_processes_give_the_numbers_of_one(model, protocol, zoo, tmp_path):
    whole = measured(model, protocol, zoo, tmp_path / "one")
    words = ["eval", model, "--protocol", str(protocol), "--out", str(tmp_path / "two")]
    done = subprocess.run([*launched(2), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "two" / "report.json").read_text()) == json.loads(json.dumps(whole))


def test_a_folder_of_something_else_is_refused(model, protocol, zoo, tmp_path, capsys, monkeypatch):
    measured(model, protocol, zoo, tmp_path / "out")
    message = refused(capsys, monkeypatch, "eval", model, "--protocol", protocol, "--out", tmp_path / "out", "--set", "guidance.scale=2")
    assert "holds an evaluation of something else: spec (" in message
    with pytest.raises(EvaluationError, match="protocol .* there, .* here.; choose another --out"):
        measured(model, protocol, zoo, tmp_path / "out", "count=30")


def test_data_of_other_content_is_refused(model, protocol, zoo, tmp_path, idx_folder):
    data = read_protocol(str(protocol), zoo).reference.build()
    sha256 = content_sha256(data)
    measured(model, protocol, zoo, tmp_path / "a", f'reference_sha256="{sha256}"')
    with pytest.raises(EvaluationError, match=f"reference 'fashion-mnist' has the content hash {sha256}, and the protocol says 00"):
        measured(model, protocol, zoo, tmp_path / "b", f'reference_sha256="{"0" * 64}"')


def test_features_of_real_pictures_are_kept_by_content_and_network(protocol, model, zoo, tmp_path, monkeypatch):
    measured(model, protocol, zoo, tmp_path / "a")
    kept = sorted((tmp_path / "cache" / "features").iterdir())
    assert len(kept) == 2
    monkeypatch.setattr("ditzoo.evaluation.reference._see", None)  # nothing is looked at again
    measured(model, protocol, zoo, tmp_path / "b")
    monkeypatch.undo()
    monkeypatch.setenv("DITZOO_CACHE", str(tmp_path / "cache"))
    kept[0].write_bytes(b"damaged")
    assert measured(model, protocol, zoo, tmp_path / "c")["floor"] == measured(model, protocol, zoo, tmp_path / "b")["floor"]


WRONG = {
    "size": (
        [],
        {"backbone": {"in_channels": 1, "input_size": [8, 8]}, "codec": {"channels": 1}, "prompt": {"classes": 10}},
        ["draws 1x8x8 pictures, and reference 'fashion-mnist'", "holds 1x28x28"],
    ),
    "no protocol": (["fashoin"], GREY, ["no protocol 'fashoin': neither a file nor one that ships; did you mean 'fashion'"]),
    "seeds": (["seeds=[1, 1]"], GREY, ["seeds are (1, 1); name each once"]),
    "kid": (["count=10"], GREY, ["kid_subset_size=20 is more than count=10"]),
    "weights": (['features.weights="/none"'], GREY, ["cannot read /none"]),
    "inception": (['features="inception"'], GREY, ["features 'inception' need torch-fidelity: pip install 'ditzoo[evaluation]'"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_measured_is_told(case, protocol, zoo, tmp_path, monkeypatch):
    settings, shape, told = list(WRONG[case][0]), *WRONG[case][1:]
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)  # as where it is not installed
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    build(zoo.model(tiny(**shape))).save_pretrained(tmp_path / "model")
    source = settings.pop() if case == "no protocol" else str(protocol)
    with pytest.raises(DitzooError) as refusal:
        measured(f"local-dir:{tmp_path / 'model'}", source, zoo, tmp_path / "out", *settings)
    for part in told:
        assert part in str(refusal.value)


def test_the_shipped_network_finds_what_its_card_says_and_is_what_it_was(zoo, real_pictures):
    """On 1,000 real test pictures; over all 10,000 the accuracy is in docs/evaluation.md."""
    network = zoo.part("features", "fashion-cnn").build()
    pixels = torch.stack([real_pictures[i]["pixels"] for i in range(1000)])
    seen = network.see(pixels)
    assert seen.features.shape == (1000, 128)
    assert float((seen.logits.argmax(1) == real_pictures.labels[:1000]).float().mean()) > 0.92
    assert ditzoo.list("fashion-dit") == ["fashion-dit"]
