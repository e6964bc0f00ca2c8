"""The command line as a person meets it: what it prints, and one line with a way out for every wrong thing."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

import pytest
from conftest import run_ditzoo, tiny
from PIL import Image

from ditzoo.assemble import build
from ditzoo.cli.options import print_columns


@pytest.fixture(scope="module")
def saved(zoo, tmp_path_factory):
    """A tiny saved model with named labels."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    build(zoo.model(tiny(prompt={"kind": "label", "classes": 3, "names": ["cat", "dog", "fish"]}))).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        ["list", "dit-xl-*", "--json"],
        ["search", "cross", "512"],
        ["show", "dit-xl-2-256", "--json"],
        ["show", "DiT-XL/2"],
        ["check", "dit-xl-2-256"],
        ["plugins"],
        ["env"],
        ["--help"],
        ["sample", "--help"],
    ],
)
def test_looking_imports_no_torch(words):
    code = f"import sys; sys.argv = ['ditzoo', *{words!r}]\nfrom ditzoo.cli import main\ntry:\n    main()\nfinally:\n    print(sorted({{'torch', 'diffusers', 'numpy', 'transformers'}} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip().splitlines()[-1] == "[]", done.stderr


def test_show_gives_parameters_gmacs_and_memory():
    data = json.loads(run_ditzoo("show", "dit-xl-2-256", "--json").stdout)
    assert data["parameters"] == 674_834_720
    assert data["gmacs"] == pytest.approx(118.64, rel=0.02)
    assert data["weight_bytes"] == 4 * data["parameters"]
    assert data["activation_bytes"] > 0
    assert data["tokens"] == 256
    text = run_ditzoo("show", "DiT-XL/2").stdout
    for words in ("674.83 M", "118.62", "FID-50K after 400K steps, no guidance: 19.47", "arXiv:2212.09748"):
        assert words in text


def test_settings_change_what_is_shown():
    data = json.loads(run_ditzoo("show", "dit-s-2", "--set", "backbone.depth=6", "--json").stdout)
    assert data["spec"]["backbone"]["depth"] == 6
    assert data["gmacs"] == pytest.approx(6.06 / 2, rel=0.02)


def test_list_and_search():
    names = [row["name"] for row in json.loads(run_ditzoo("list", "dit-s-*", "--json").stdout)]
    assert len(names) == 12
    assert run_ditzoo("search", "cross-attention", "XL/4").stdout.split()[3:4] == ["dit-xl-4.cross-attention"]
    assert run_ditzoo("list", "dit-xl-2-*", "--with-weights").stdout.count("hub") == 2


def test_columns_are_aligned(capsys):
    print_columns([("A", "B"), ("long", "x")])
    assert capsys.readouterr().out == "A     B\nlong  x\n"


def test_sample_writes_pictures_a_grid_and_a_sidecar_that_reproduces_them(saved, tmp_path):
    done = run_ditzoo(
        "sample",
        f"local-dir:{saved}",
        "-l",
        "dog",
        "-l",
        "2",
        "--num-images-per-prompt",
        2,
        "--seed",
        5,
        "--guidance-scale",
        2,
        "--set",
        "sampler.kind=heun",
        "--out",
        tmp_path / "a",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [sample["caption"] for sample in report["samples"]] == ["dog", "dog", "fish", "fish"]
    assert report["spec"]["sampler"]["kind"] == "heun"
    again = shlex.split(json.loads((tmp_path / "a" / "samples.json").read_text())["command"].replace(f"{tmp_path}/a", f"{tmp_path}/b"))
    assert run_ditzoo(*again[1:]).returncode == 0
    for name in (*(sample["file"] for sample in report["samples"]), "grid.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert Image.open(tmp_path / "a" / "00003.png").size == (8, 8)


def test_progress_is_silent_when_nobody_watches(saved, tmp_path):
    assert run_ditzoo("sample", f"local-dir:{saved}", "--out", tmp_path).stderr == ""


NEAR = "did you mean"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["show", "dit-xl-3"], ["no model 'dit-xl-3'", NEAR, "'dit-xl-2'"]),
        (["show", "hf-hub:a/b"], ["hf-hub:a/b is not in the cache", "'ditzoo pull hf-hub:a/b'"]),
        (["show", "local-dir:/none"], ["folder '/none' does not exist"]),
        (["show", "missing.toml"], ["no file missing.toml"]),
        (["list", "unet-*"], ["no model matches 'unet-*'"]),
        (["search", "autoregressive"], ["nothing in the catalogue speaks of"]),
        (["check", "dit-s-2", "--set", "sampler.kind=dimd"], ["no installed plugin offers sampler kind 'dimd'", NEAR, "'ddim'"]),
        (["check", "dit-s-2", "--set", "sampler.etta=1"], ["unknown field 'etta'"]),
        (["check", "dit-s-2", "--set", "depth"], ["--set takes path.to.field=value, found 'depth'"]),
        (["check", "dit-s-2", "--set", "backbone.width=100"], ["width=100 is not divisible by heads=6; nearest widths: 96, 102"]),
        (["check", "dit-s-2", "--set", "backbone.patch=5"], ["patch=5 does not divide the latent 32x32"]),
        (["check", "dit-xl-2-256", "--set", "schedule.kind=flow"], ["does not fit these weights", "set schedule.kind=linear"]),
        (["check", "dit-xl-2-256", "--set", "codec.channels=16"], ["16-channel latents and backbone 'dit' takes 4"]),
        (["check", "dit-xl-2-256", "--set", "sampling.height=512"], ["serves latents of 32x32 alone, not 64x32"]),
        (["sample", "SAVED", "--steps", "0"], ["sampling.steps", "greater than 0, found 0"]),
        (["sample", "SAVED", "--steps", "-4"], ["found -4"]),
        (["sample", "SAVED", "--steps", "ten"], ["'ten' is not a valid integer"]),
        (["sample", "SAVED", "--label", "3"], ["label 3 is out of range; this model's labels are 0 to 2"]),
        (["sample", "SAVED", "--label", "dgo"], ["no label 'dgo'", NEAR, "'dog'"]),
        (["sample", "SAVED", "--prompt", "a dog"], ["takes class_labels, found prompt"]),
        (["sample", "SAVED", "-n", "0"], ["0 samples asked"]),
        (["sample", "SAVED", "--guidance-scale", "-1"], ["guidance.scale", "greater than or equal to 0"]),
        (["sample", "SAVED", "--height", "9"], ["patch=2 does not divide the latent 9x8"]),
        (["sample", "SAVED", "--batch-size", "0"], ["batch_size is 0"]),
        (["sample", "SAVED", "--seed", "-1"], ["seed is -1"]),
        (["sample", "SAVED", "--device", "tpu9"], ["device 'tpu9' cannot be used here"]),
        (["sample", "SAVED", "--out", "/proc/none/out"], ["cannot write into folder '/proc/none/out'"]),
        (["sample", "SAVED", "--out", "FILE"], ["cannot write into folder"]),
        (["sample", "dit-s-2"], ["'dit-s-2' is an architecture without trained weights", "--random-weights"]),
        (["sample", "dit-xl-2-256"], ["hf-hub:facebook/DiT-XL-2-256@eab87f77", "is not in the cache"]),
        (["sample", "dit-s-2", "--random-weights", "--sampel"], ["No such option"]),
        (
            ["train", "fashion-dit", "--set", "data.folder=/none", "--out", "OUT"],
            ["no Fashion-MNIST file", "apt install dataset-fashion-mnist"],
        ),
        (["train", "nothing"], ["no recipe 'nothing'"]),
        (["train", "FILE"], ["unknown field"]),
        (["fetch"], ["No such command"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(saved, tmp_path, words, told):
    file = tmp_path / "file.toml"
    file.write_text("colour = 3\n")
    places = {"SAVED": f"local-dir:{saved}", "FILE": str(file), "OUT": str(tmp_path / "out")}
    done = run_ditzoo(*(places.get(word, word) for word in words), env={"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "none")})
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.lower().startswith("error:")]
    assert len(lines) == 1, done.stderr
    for part in told:
        assert part in lines[0]
