"""Pages of mapped weights: given back once a copy was made or they have served, and never at the price of what was written."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from conftest import assert_near, tiny, wake
from safetensors.torch import load_file, save_file

import ditzoo
from ditzoo import pages
from ditzoo.assemble import build

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="advice on pages is given to Linux alone")
MANY = pages.WORTH // 4  # float32 values


def resident(path):
    """Return the bytes of a mapped file that are in this process' memory."""
    found = 0
    for mapping in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text()):
        if mapping.splitlines()[0].endswith(str(path)):
            found += 1024 * int(re.search(r"\nRss: +(\d+) kB", mapping)[1])
    return found


@pytest.fixture
def mapped(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"large": torch.arange(2 * MANY).float(), "small": torch.arange(MANY // 2).float()}, path)
    return path, load_file(path)


def test_pages_of_a_large_tensor_are_given_back_and_read_anew(mapped):
    path, tensors = mapped
    before = {name: float(tensor.double().sum()) for name, tensor in tensors.items()}
    assert resident(path) > 2.4 * pages.WORTH
    pages.release(tensors.values())
    assert 0.4 * pages.WORTH < resident(path) < 0.6 * pages.WORTH  # the small one
    assert {name: float(tensor.double().sum()) for name, tensor in tensors.items()} == before


def test_what_was_written_stays(mapped):
    _, tensors = mapped
    large = tensors["large"]
    expected = large.add_(1).clone()
    pages.release([large])
    assert torch.equal(large, expected)


def test_memory_of_no_file_is_left_alone(mapped, monkeypatch):
    advised = []
    monkeypatch.setattr(pages, "_advise", lambda tensor, advice: advised.append(tensor))
    pages.release([torch.zeros(2 * MANY), mapped[1]["large"], torch.zeros(2 * MANY, device="meta")])
    assert [one.data_ptr() for one in advised] == [mapped[1]["large"].data_ptr()]


@pytest.mark.parametrize(("runtime", "most"), [("onednn", 0.3), ("fused", 0.8), ("eager", 1.0)])
def test_a_runtime_does_not_hold_weights_twice(zoo, tmp_path, monkeypatch, runtime, most):
    monkeypatch.setenv("DITZOO_CACHE", str(tmp_path / "cache"))
    spec = zoo.model(tiny(backbone={"width": 1024, "depth": 1, "heads": 8}, guidance={"scale": 2.0}))
    wake(build(spec)).save_pretrained(tmp_path / "model")
    (file,) = (tmp_path / "model").glob("*.safetensors")
    plain = ditzoo.load(f"local-dir:{tmp_path / 'model'}", runtime="eager").sample(num_images=2, output_type="latent").images
    model = ditzoo.load(f"local-dir:{tmp_path / 'model'}", runtime=runtime)
    for _ in range(2):
        assert_near(model.sample(num_images=2, output_type="latent").images, plain)
    model.sample(num_images=2, output_type="latent")
    assert resident(file) <= most * file.stat().st_size
