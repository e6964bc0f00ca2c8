"""Datasets: what is read is what was written, and what is missing or broken is said so."""

from __future__ import annotations

import gzip
import re

import pytest
import torch
from conftest import write_idx
from PIL import Image

from ditzoo.errors import DataError
from ditzoo.training.data import Order


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
    with pytest.raises(DataError, match=r"cannot read picture .*a-half\.png.*set data\.on_error=skip"):
        folder(zoo, pictures)[0]
    assert folder(zoo, pictures, on_error="skip")[0]["item"] == 0


def test_order_is_a_permutation_an_epoch_and_resumes_anywhere():
    whole = list(Order(items=10, batch_size=4, seed=1, first=0, last=10, lo=0, hi=4))
    flat = [index for rows in whole for index in rows]
    assert sorted(flat[:10]) == sorted(flat[10:20]) == list(range(10))
    assert flat[:10] != flat[10:20]
    assert list(Order(items=10, batch_size=4, seed=1, first=6, last=10, lo=0, hi=4)) == whole[6:]
    halves = zip(*(Order(items=10, batch_size=4, seed=1, first=0, last=10, lo=lo, hi=lo + 2) for lo in (0, 2)), strict=True)
    assert [a + b for a, b in halves] == whole
