"""Datasets: what is read is what was written, and what is missing or broken is said so."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import refused, run_ditzoo, write_idx
from PIL import Image

from ditzoo.errors import DataError, DataWarning, TrainingError
from ditzoo.training.data import Order, batches
from ditzoo.training.recipe import read_recipe


def fashion(zoo, folder, **fields):
    return zoo.part("dataset", {"kind": "fashion-mnist", "folder": str(folder), **fields}).build()


def test_idx_files_plain_and_gzipped(zoo, idx_folder, tmp_path):
    plain = fashion(zoo, idx_folder)
    assert len(plain) == 64
    item = plain[13]
    assert item["item"] == 3
    assert item["pixels"].shape == (1, 28, 28)
    assert float(item["pixels"].min()) == -1.0
    assert float(item["pixels"][0, 7, 10]) == pytest.approx(200 / 127.5 - 1)
    for path in idx_folder.iterdir():
        (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    zipped = fashion(zoo, tmp_path, split="test")
    assert len(zipped) == 16
    assert torch.equal(zipped[5]["pixels"], plain[5]["pixels"])


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda raw: None, "no Fashion-MNIST file train-images-idx3-ubyte[.gz] in"),
        (lambda raw: raw[:1000], "is truncated: 1000 bytes, its header promises"),
        (lambda raw: b"<html>" + raw, "is no IDX file of bytes with 3 axes"),
        (lambda raw: b"", "is no IDX file"),
    ],
)
def test_missing_and_broken_files(zoo, idx_folder, tmp_path, spoil, told):
    for path in idx_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    images = tmp_path / "train-images-idx3-ubyte"
    spoiled = spoil(images.read_bytes())
    images.unlink() if spoiled is None else images.write_bytes(spoiled)
    with pytest.raises(DataError, match=re.escape(told)):
        fashion(zoo, tmp_path)


def test_labels_that_do_not_match_images(zoo, idx_folder, tmp_path):
    for path in idx_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    write_idx(tmp_path / "train-labels-idx1-ubyte", torch.zeros(63))
    with pytest.raises(DataError, match="64 train images but 63 labels"):
        fashion(zoo, tmp_path)


@pytest.fixture
def pictures(tmp_path):
    for label, name in enumerate(("ash", "birch")):
        (tmp_path / name / "deep").mkdir(parents=True)
        Image.new("RGB", (40, 20), (200 * label, 100, 0)).save(tmp_path / name / "wide.png")
        Image.new("L", (10, 30), 255).save(tmp_path / name / "deep" / "grey.jpg")
    half = Image.new("RGB", (16, 16))
    half.paste((255, 255, 255), (0, 0, 8, 16))
    half.save(tmp_path / "ash" / "a-half.png")
    return tmp_path


def folder(zoo, path, **fields):
    return zoo.part("dataset", {"kind": "image-folder", "folder": str(path), "size": 16, **fields}).build()


def test_image_folder_classes_sizes_modes_and_flips(zoo, pictures):
    data = folder(zoo, pictures, flip=True)
    assert data.names == ("ash", "birch")
    assert len(data) == 10
    assert [data[i]["item"] for i in range(5)] == [0, 0, 0, 1, 1]
    assert all(data[i]["pixels"].shape == (3, 16, 16) for i in range(10))
    half, mirrored = data[0]["pixels"], data[5]["pixels"]
    assert float(half[0, 0, 0]) == 1.0
    assert torch.equal(mirrored, half.flip(-1))
    assert folder(zoo, pictures, channels=1)[1]["pixels"].shape == (1, 16, 16)


def test_image_folder_says_what_is_wrong(zoo, pictures, tmp_path_factory):
    with pytest.raises(DataError, match="no folder"):
        folder(zoo, pictures / "none")
    with pytest.raises(DataError, match="no pictures in"):
        folder(zoo, tmp_path_factory.mktemp("empty"))
    (pictures / "ash" / "a-half.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"cannot use picture .*a-half\.png.*set data\.on_error=skip"):
        folder(zoo, pictures)[0]
    with pytest.warns(DataWarning, match=r"the next picture stands in for .*a-half\.png"):
        assert folder(zoo, pictures, on_error="skip")[0]["item"] == 0


def sixteen_bit(path):
    Image.fromarray(np.full((16, 16), 0x8080, dtype=np.uint16)).save(path)


def transparent(path):
    Image.new("RGBA", (16, 16), (200, 0, 0, 0)).save(path)


def transparent_palette(path):
    picture = Image.new("P", (16, 16), 3)
    picture.putpalette([10, 20, 30] * 256)
    picture.save(path, transparency=3)


def cmyk(path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path)


ODD = {
    "16-bit": (sixteen_bit, "x.png", "16-bit", (128, 128, 128)),
    "transparent": (transparent, "x.png", "RGB with transparency", (255, 255, 255)),
    "transparent palette": (transparent_palette, "x.png", "palette with transparency", (255, 255, 255)),
    "CMYK": (cmyk, "x.tif", "CMYK", (255, 0, 0)),
    "grey": (lambda path: Image.new("L", (16, 16), 77).save(path), "x.png", "grey", (77, 77, 77)),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_pictures_are_converted_left_out_or_refused_as_told(zoo, tmp_path, case):
    write, name, kind, expected = ODD[case]
    write(tmp_path / name)
    Image.new("RGB", (16, 16), (1, 2, 3)).save(tmp_path / "z.png")
    found = (folder(zoo, tmp_path)[0]["pixels"][:, 8, 8] + 1) * 127.5
    assert found.round().int().tolist() == list(expected)
    with pytest.raises(
        DataError, match=f"cannot use picture .*{name}: it is {kind} where 8-bit RGB is wanted; .*data.unlike=convert or skip"
    ):
        folder(zoo, tmp_path, unlike="stop")[0]
    with pytest.warns(DataWarning, match=f"stands in for .*{name}: it is {kind}"):
        other = (folder(zoo, tmp_path, unlike="skip")[0]["pixels"][:, 0, 0] + 1) * 127.5
    assert other.round().int().tolist() == [1, 2, 3]


def test_a_float_picture_has_no_range_and_is_never_guessed(zoo, tmp_path):
    Image.fromarray(np.random.default_rng(0).random((16, 16), dtype=np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(DataError, match=r"x.tif: it is float, whose range is not known; remove it, or set data.unlike=skip"):
        folder(zoo, tmp_path)[0]


RECIPE = """
[model]
name = "m"
backbone = {{kind="dit", width=32, depth=2, heads=2, patch=4, in_channels=3, input_size=[16, 16]}}
conditioning = "adaln-zero"
prompt = {{kind="label", classes=2}}
schedule = {{kind="linear", prediction="eps"}}
sampler = "ddim"
codec = {{kind="pixels", channels=3}}
[data]
kind = "image-folder"
folder = "{folder}"
size = 16
[length]
steps = 2
batch_size = 4
workers = {workers}
"""


@pytest.fixture
def declared(pictures, tmp_path_factory):
    def write(workers=0):
        path = tmp_path_factory.mktemp("recipe") / "folder.toml"
        path.write_text(RECIPE.format(folder=pictures, workers=workers))
        return path

    return write


def test_a_survey_lists_what_there_is_and_what_cannot_be_used(pictures, declared):
    cmyk(pictures / "ash" / "b.tif")
    (pictures / "birch" / "broken.png").write_bytes((pictures / "ash" / "a-half.png").read_bytes()[:60])
    (pictures / "birch" / "text.jpg").write_text("hello")
    done = run_ditzoo("data", declared(), "--json")
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert found["items"] == 8
    assert found["kinds"] == {"RGB": 4, "grey": 2, "CMYK": 1, "unreadable": 1}
    assert [Path(one["item"]).name for one in found["unusable"]] == ["broken.png", "text.jpg"]
    plain = run_ditzoo("data", declared())
    assert "cannot use" in plain.stdout
    assert plain.stdout.startswith("8 items, 2 classes: ash, birch\n")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_picture_ends_a_run_in_one_line_whoever_reads_it(pictures, declared, workers, capsys, monkeypatch, tmp_path_factory):
    for path in pictures.rglob("*.png"):
        path.write_bytes(b"no picture")
    message = refused(capsys, monkeypatch, "train", declared(workers), "--out", tmp_path_factory.mktemp("run"), "--quiet")
    assert "error: cannot use picture" in message
    assert "set data.on_error=skip" in message
    assert len(message.splitlines()) == 1


LEFT_OPEN = """
import torch
from ditzoo.training.data import Order, batches
from ditzoo.training.recipe import read_recipe

class Grey:
    names = ()

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {"pixels": torch.zeros(1, 2, 2), "item": 0}

rows = batches(Grey(), Order(8, 4, 0, 0, 2, 0, 4), workers=2)
next(rows)
torch.kept = rows  # as long as there is an interpreter
"""


def test_readers_end_with_a_run_that_left_them_open():
    done = subprocess.run([sys.executable, "-c", LEFT_OPEN], timeout=100, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_error_that_is_kept_keeps_no_reader(pictures, declared, zoo):
    for path in pictures.rglob("*.png"):
        path.write_bytes(b"no picture")
    dataset = read_recipe(str(declared()), zoo).data.build()
    with pytest.raises(DataError) as kept:
        list(batches(dataset, Order(len(dataset), 4, 0, 0, 2, 0, 4), workers=2))
    assert kept.value is not None
    assert not multiprocessing.active_children()


class Deadly:
    """A dataset whose reading kills the process that reads."""

    names = ()

    def __len__(self):
        return 8

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_reading_process_that_dies_is_told():
    order = Order(8, 4, 0, 0, 2, 0, 4)
    with pytest.raises(
        TrainingError, match=r"a process that reads data died, often for want of memory .*lower length\.workers=1, or read in"
    ):
        list(batches(Deadly(), order, workers=1))


def test_order_is_a_permutation_an_epoch_and_resumes_anywhere():
    whole = list(Order(items=10, batch_size=4, seed=1, first=0, last=10, lo=0, hi=4))
    flat = [index for rows in whole for index in rows]
    assert sorted(flat[:10]) == sorted(flat[10:20]) == list(range(10))
    assert flat[:10] != flat[10:20]
    assert list(Order(items=10, batch_size=4, seed=1, first=6, last=10, lo=0, hi=4)) == whole[6:]
    halves = zip(*(Order(items=10, batch_size=4, seed=1, first=0, last=10, lo=lo, hi=lo + 2) for lo in (0, 2)), strict=True)
    assert [a + b for a, b in halves] == whole


def test_avatars_are_what_their_captions_say(zoo):
    train, test = (zoo.part("dataset", {"kind": "avatars", "split": split}).build() for split in ("train", "test"))
    assert (len(train), len(test)) == (24_000, 4_000)
    item = train[0]
    assert item["pixels"].shape == (3, 16, 16)
    assert float(item["pixels"].min()) >= -1
    assert float(item["pixels"].max()) <= 1
    names = list(test.values)
    for index in range(0, 4_000, 250):
        told = {name: test.values[name][value] for name, value in zip(names, test.attributes[index].tolist(), strict=True)}
        caption = test.captions[index]
        assert f"{told['length']} {told['hair']} hair, {told['shirt']} shirt" in caption
        assert caption.endswith(f"{told['background']} background")
        assert ("glasses" in caption) == (told["glasses"] == "glasses")
    columns = [names.index(name) for name in ("hair", "shirt", "background")]
    trained = {tuple(row) for row in train.attributes[:, columns].tolist()}
    assert [tuple(row) in trained for row in test.attributes[:, columns].tolist()] == (~test.unseen).tolist()
    assert float(test.unseen.float().mean()) == 0.5
    known = set(train.captions)
    assert [caption not in known for caption in test.captions] == test.groups["unseen captions"].tolist()
    assert bool(test.groups["unseen captions"][test.unseen].all())
