"""DiT-XL/2 at its true size, with random weights: by name through the hub, the same function and pictures, and the memory that it takes."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import pytest
import torch
from conftest import assert_near
from hub_server import HubServer, hub_environment, in_process, offline
from pipelines import pipeline

import ditzoo
from ditzoo.conversion import convert
from ditzoo.sources import resolve

XL = {"num_attention_heads": 16, "attention_head_dim": 72, "num_layers": 28, "sample_size": 32}
STEPS = 2


def benchmark():
    """The benchmark of loading, which measures a process's memory."""
    path = Path(__file__).parent.parent / "benchmarks" / "load.py"
    spec = importlib.util.spec_from_file_location("load_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_xl_by_name_there_and_back(tmp_path, monkeypatch, zoo):
    from diffusers import DiTPipeline

    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    theirs = pipeline(**XL)
    theirs.set_progress_bar_config(disable=True)
    theirs.save_pretrained(tmp_path / "dit")
    generator = torch.Generator().manual_seed(0)
    x, t, labels = torch.randn(2, 4, 32, 32, generator=generator), torch.tensor([3, 770]), [5, 999]
    expected = theirs.transformer(x, timestep=t, class_labels=torch.tensor(labels)).sample

    def drawn(pipe, scale):
        options = {"num_inference_steps": STEPS, "output_type": "np", "generator": torch.Generator().manual_seed(3)}
        return torch.from_numpy(pipe([207], guidance_scale=scale, **options).images).permute(0, 3, 1, 2)

    pictures = {scale: drawn(theirs, scale) for scale in (1.0, 4.0)}
    theirs.transformer = None  # 3 GB

    with HubServer() as server:
        in_process(server, tmp_path / "home", monkeypatch)
        commit = server.add_folder("random/DiT-XL-2", tmp_path / "dit")
        model = ditzoo.load(f"hf-hub:random/DiT-XL-2@{commit}")
        assert sum(p.numel() for p in model.parameters()) == 674_834_720  # 28 copies of the embedders became one
        assert_near(model(x, t.double(), labels), expected, 1e-5)
        for scale, picture in pictures.items():
            options = {"num_inference_steps": STEPS, "output_type": "pt", "generator": torch.Generator().manual_seed(3)}
            assert_near(model.sample(class_labels=[207], guidance_scale=scale, **options).images, picture, 1e-5)
        offline(monkeypatch)
        env = os.environ | hub_environment(server, tmp_path / "home", HF_HUB_OFFLINE="1")
        tool = benchmark()
        for dtype, key, most in (("float32", "anonymous", 300e6), ("bfloat16", "resident", 2e9)):
            used = tool.run(tool.LOADS["ditzoo"].format(repo="random/DiT-XL-2", commit=commit, dtype=dtype), env)
            assert used[key] < most, used

    shutil.rmtree(tmp_path / "dit")
    done = convert(resolve(f"hf-hub:random/DiT-XL-2@{commit}", zoo), tmp_path / "back", "diffusers", max_shard_size="1GB")
    del model
    again = DiTPipeline.from_pretrained(done.path, local_files_only=True)
    again.set_progress_bar_config(disable=True)
    assert_near(again.transformer(x, timestep=t, class_labels=torch.tensor(labels)).sample, expected, 1e-5)
    assert_near(drawn(again, 4.0), pictures[4.0], 1e-5)
    torch.set_num_threads(threads)
