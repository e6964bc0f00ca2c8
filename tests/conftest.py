"""What many tests share: the zoo, tiny real models, a tiny Fashion-MNIST, the command line in a process of its own."""

from __future__ import annotations

import itertools
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # tiny models, and other work may share the machine; processes of the tests add up alike with it

import pluggy
import pytest
import torch
from hub_server import HubServer, in_process
from pipelines import published, written
from strangers import two_stream, video

from ditzoo.cli import main
from ditzoo.errors import DataError
from ditzoo.hookspecs import GROUP
from ditzoo.matrix import examples, matched
from ditzoo.zoo import Zoo


@pytest.fixture(scope="session")
def zoo() -> Zoo:
    return Zoo.installed()


@pytest.fixture(scope="session")
def strangers_zoo() -> Zoo:
    """The built-in plugins and the two throw-away ones, in a manager of our own."""
    import ditzoo_conditioning
    import ditzoo_data
    import ditzoo_diffusion
    import ditzoo_dit
    import ditzoo_features
    import ditzoo_flow

    manager = pluggy.PluginManager(GROUP)
    for module in (ditzoo_conditioning, ditzoo_data, ditzoo_diffusion, ditzoo_dit, ditzoo_features, ditzoo_flow, two_stream, video):
        manager.register(module, name=module.__name__)
    found = Zoo(manager)
    assert not found.failures
    return found


def compositions(zoo):
    """Every example of a backbone with every conditioning that goes with it, and the joint attention of SD3.5 medium."""
    conditionings = [*examples(zoo, "conditioning").values(), {"kind": "joint-attention", "dual": 1}]
    video = {"kind": "toy-video", "width": 48, "depth": 2, "in_channels": 3, "input_size": (2, 8, 8)}
    for backbone, conditioning in itertools.product([*examples(zoo, "backbone").values(), video], conditionings):
        if conditioning["kind"] in zoo.kinds["conditioning"] and backbone["kind"] in zoo.kinds["backbone"]:
            found = matched(zoo, backbone=backbone, conditioning=conditioning, settings=["guidance.scale=2.0"])
            if found is not None:
                yield found


def tiny(**changes: object) -> dict[str, object]:
    """Return the data of a tiny DiT on 8x8 pixels; a change replaces a whole part, or with a dict lays fields over it."""
    data: dict[str, object] = {
        "name": "tiny",
        "backbone": {
            "kind": "dit",
            "width": 32,
            "depth": 3,
            "heads": 2,
            "patch": 2,
            "in_channels": 3,
            "input_size": [8, 8],
            "learn_sigma": False,
        },
        "conditioning": {"kind": "adaln-zero"},
        "prompt": {"kind": "label", "classes": 5},
        "schedule": {"kind": "linear"},
        "sampler": {"kind": "ddim"},
        "codec": {"kind": "pixels"},
        "sampling": {"steps": 4},
    }
    for name, change in changes.items():
        old = data.get(name)
        merged = isinstance(old, dict) and isinstance(change, dict) and change.get("kind", old.get("kind")) == old.get("kind")
        data[name] = {**old, **change} if merged else change  # type: ignore[dict-item]
    return data


def wake(module: torch.nn.Module, std: float = 0.05) -> torch.nn.Module:
    """Give every parameter random values, so that gates and heads that start at zero do something."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * std)
    return module


def assert_near(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    """The largest difference is within `tolerance` of the largest value: what another order of summing may cost."""
    error, scale = float((found - expected).abs().max()), float(expected.abs().max())
    assert error <= tolerance * scale, f"{error:.2e} apart at a scale of {scale:.2e}"


def write_idx(path: Path, array: torch.Tensor) -> None:
    header = bytes([0, 0, 8, array.dim()]) + struct.pack(f">{array.dim()}I", *array.shape)
    path.write_bytes(header + array.to(torch.uint8).numpy().tobytes())


@pytest.fixture(scope="session")
def idx_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four IDX files in Fashion-MNIST's form: each class a bar at its own height, 64 training and 16 test pictures."""
    folder = tmp_path_factory.mktemp("idx")
    for prefix, count in (("train", 64), ("t10k", 16)):
        labels = torch.arange(count) % 10
        images = torch.zeros(count, 28, 28)
        for image, label in zip(images, labels, strict=True):
            image[2 * label : 2 * label + 6, 4:24] = 200
        write_idx(folder / f"{prefix}-images-idx3-ubyte", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", labels)
    return folder


def install(package: Path, target: Path) -> None:
    """Install a copy of a package with pip, so that pip leaves nothing in the tree."""
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(package, Path(folder) / "package")
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--target",
            str(target),
            str(copy),
        ]
        subprocess.run(command, check=True, timeout=300)


def run_ditzoo(*words: object, env: dict[str, str] | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "ditzoo", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | (env or {}),
        cwd=cwd,
    )


def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object) -> str:
    """Run the command line here; it must end with code 2 and lines that begin with `error:`. Returns them."""
    monkeypatch.setattr(sys, "argv", ["ditzoo", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().err
    assert ended.value.code == 2, told
    assert "Traceback" not in told
    lines = [line for line in told.splitlines() if not line.startswith("note: ")]
    assert lines
    assert all(line.startswith("error: ") for line in lines), told
    return "\n".join(lines)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A pipeline's repository as diffusers writes it today, the same in shards, and as it was published in 2023."""
    root = tmp_path_factory.mktemp("folders")
    written(root / "whole")
    written(root / "shards", max_shard_size="300KB")
    published(root / "pickle")
    return root


@pytest.fixture
def server(tmp_path, monkeypatch):
    with HubServer() as running:
        in_process(running, tmp_path / "home", monkeypatch)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client's pauses between tries
        yield running


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


RECIPE = """
seed = 3
[model]
name = "bars"
conditioning = {{kind = "adaln-zero"}}
prompt = {{kind = "label", classes = 10}}
schedule = {{kind = "{schedule}"}}
sampler = {{kind = "ddim", clip = 1.0}}
codec = {{kind = "pixels", channels = 1}}
sampling = {{steps = 5, samples = 10}}
[model.backbone]
kind = "dit"
width = 32
depth = 2
heads = 2
patch = 7
in_channels = 1
input_size = [28, 28]
learn_sigma = {sigma}
[data]
kind = "fashion-mnist"
folder = "{folder}"
[optimizer]
lr = 6e-3
warmup = 5
decay = "cosine"
[length]
steps = 30
batch_size = 12
ema = 0.9
[output]
log_every = 5
checkpoint_every = 5
"""


@pytest.fixture(scope="session")
def recipe(tmp_path_factory, idx_folder):
    path = tmp_path_factory.mktemp("recipe") / "bars.toml"
    path.write_text(RECIPE.format(folder=idx_folder, schedule="cosine", sigma="false"))
    return path


@pytest.fixture(scope="session")
def real_pictures(zoo):
    """Fashion-MNIST's own test set, which is no part of the repository; continuous integration has to have it."""
    try:
        return zoo.part("dataset", {"kind": "fashion-mnist", "split": "test"}).build()
    except DataError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"real pictures are looked at: {error}")


SPOKEN = (
    "t-shirt shirt trouser pullover dress coat sandal sneaker bag ankle boot left right up down clockwise anticlockwise bouncing slow fast"
)
CLIPS = """
seed = 5
mixing = {{ kind = "packed", tokens = 128 }}
[model]
name = "clips"
conditioning = "adaln-zero"
prompt = {{ kind = "text-tokens", vocabulary = {words}, heads = 2 }}
schedule = {{ kind = "flow", prediction = "velocity" }}
sampler = "euler"
codec = {{ kind = "pixels", channels = 1 }}
backbone = {{ kind = "video-dit", width = 32, depth = 2, heads = 2, patch = [2, 14, 14], in_channels = 1, input_size = [6, 28, 42] }}
[data]
kind = "moving-fashion"
articles = {{ kind = "fashion-mnist", folder = "{folder}" }}
frames = [2, 4, 6]
heights = [28]
widths = [28, 42]
[objective]
times = "stratified"
[optimizer]
lr = 3e-3
[length]
steps = 8
batch_size = 2
ema = 0.9
[output]
log_every = 3
checkpoint_every = 2
keep = 9
"""


@pytest.fixture(scope="session")
def clips(tmp_path_factory, idx_folder):
    path = tmp_path_factory.mktemp("clips") / "clips.toml"
    path.write_text(CLIPS.format(folder=idx_folder, words=SPOKEN.split()))
    return path
