"""Locks that hold a name to the byte, and models that are pushed, found and loaded by name; over the loopback hub."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest
from conftest import equal, run_ditzoo, tiny, wake
from hub_server import hub_environment
from pipelines import change

import ditzoo
from ditzoo.assemble import build
from ditzoo.errors import LockError
from ditzoo.hub import Repository
from ditzoo.locks import hold, lock
from ditzoo.sources import resolve

REPO = "facebook/DiT-tiny"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def test_a_lock_refuses_a_changed_byte_spec_commit_and_plugin(server, folders, tmp_path, zoo):
    server.add_folder(REPO, folders / "whole")
    own = shutil.copytree(folders / "whole", tmp_path / "own")
    names = [f"hf-hub:{REPO}", f"local-dir:{own}"]
    path = tmp_path / "ditzoo.lock"
    done = run_ditzoo("lock", *names, "--out", path)
    assert done.returncode == 0, done.stderr
    data = json.loads(path.read_text())
    model = data["models"][names[0]]
    assert model["place"] == str(Repository(REPO))
    weights = hashlib.sha256((folders / "whole" / WEIGHTS).read_bytes()).hexdigest()
    assert model["files"][WEIGHTS]["sha256"] == weights
    assert "codec: vae/config.json" in model["files"]
    assert set(model["plugins"]) == {"dit", "conditioning", "diffusion", "data"}
    for name in names:
        ditzoo.load(name, lock=path)
    with pytest.raises(LockError, match=r"its spec differs in sampler.eta=0.5 \(lock: 0.0\)"):
        ditzoo.load(names[0], settings=["sampler.eta=0.5"], lock=path)
    with pytest.raises(LockError, match="has no 'fashion-dit'"):
        ditzoo.load("fashion-dit", lock=path)

    blob = (own / WEIGHTS).read_bytes()
    (own / WEIGHTS).write_bytes(blob[:-1] + bytes([blob[-1] ^ 1]))
    with pytest.raises(LockError, match=f"file {WEIGHTS} is sha256 .* and the lock says sha256 {weights}"):
        ditzoo.load(names[1], lock=path)
    refused = run_ditzoo("sample", names[1], "--lock", path, "--out", tmp_path / "out")
    assert refused.returncode == 2
    assert "is not what" in refused.stderr
    assert not (tmp_path / "out").exists()

    (own / WEIGHTS).write_bytes(blob)
    change(own / "vae" / "config.json", layers_per_block=2)
    with pytest.raises(LockError, match="file codec: vae/config.json is sha256"):
        ditzoo.load(names[1], lock=path)
    server.add_folder(REPO, folders / "shards")
    with pytest.raises(LockError, match="its files are at hf-hub:.*, and the lock says hf-hub:"):
        ditzoo.load(names[0], lock=path)
    data["models"][names[1]]["plugins"]["dit"] = "ditzoo 9.9"
    path.write_text(json.dumps(data))
    with pytest.raises(LockError, match="plugin dit is ditzoo .*, and the lock says ditzoo 9.9"):
        ditzoo.load(names[1], lock=path)


def test_bytes_that_change_in_the_cache_are_refused_by_a_lock(server, folders, tmp_path, zoo):
    server.add_folder(REPO, folders / "whole")
    found = resolve(f"hf-hub:{REPO}", zoo)
    lock([found], tmp_path / "lock.json")
    hold(found, tmp_path / "lock.json")
    blob = (Repository(REPO).snapshot / WEIGHTS).resolve()
    raw = blob.read_bytes()
    blob.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(LockError, match=f"file {WEIGHTS} is"):
        hold(found, tmp_path / "lock.json")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"format": 7, "models": {}}'])
def test_a_file_that_is_no_lock(tmp_path, content):
    (tmp_path / "lock").write_text(content)
    with pytest.raises(LockError, match=r"lock"):
        ditzoo.load("fashion-dit", lock=tmp_path / "lock")


def test_push_makes_a_repository_that_a_colleague_loads_by_name(server, tmp_path, zoo, monkeypatch):
    spec = zoo.model(
        tiny(
            prompt={"classes": 3, "names": ["cat", "dog", "fish"]},
            card={"summary": "tiny animals", "license": "Apache-2.0", "data": "drawn by hand"},
        )
    )
    model = wake(build(spec)).requires_grad_(False)
    grid = tmp_path / "grid.png"
    model.sample(class_labels=[0], seed=1).images[0].save(grid)
    address = model.push_to_hub("me/animals", token="hf_good", grid=grid, max_shard_size="100KB")
    assert address.startswith(server.url)
    pushed = server.files("me/animals")
    card = pushed["README.md"].decode()
    front, text = card.split("---\n")[1:3]
    for line in ("library_name: ditzoo", "license: apache-2.0", "- ditzoo"):
        assert line in front
    for part in (
        'ditzoo.load("hf-hub:me/animals")',
        "ditzoo sample hf-hub:me/animals",
        "Tiny animals.",
        "![samples of tiny](grid.png)",
        "drawn by hand",
        "| parameters | 0.0",
    ):
        assert part in text
    assert pushed["grid.png"] == grid.read_bytes()
    assert equal(ditzoo.load("hf-hub:me/animals"), model)
    model.push_to_hub("me/animals", token="hf_good")  # whole this time: no shard of before stays behind
    assert sorted(name for name in server.files("me/animals") if "safetensors" in name) == ["model.safetensors"]
    assert equal(ditzoo.load("hf-hub:me/animals"), model)
    found = run_ditzoo("search", "animals", "--json")
    assert [row["name"] for row in json.loads(found.stdout)] == ["hf-hub:me/animals"]


def test_push_from_the_command_line_and_what_it_refuses(server, folders, tmp_path, zoo):
    build(zoo.model(tiny())).save_pretrained(tmp_path / "model")
    name, env = f"local-dir:{tmp_path / 'model'}", hub_environment(server, tmp_path / "home", HF_TOKEN="hf_good")
    refused = run_ditzoo("push", name, "me/tiny", env=env)
    assert refused.returncode == 2
    assert "'tiny' has no licence, so nobody could use it; say one with license='apache-2.0' (--license)" in refused.stderr
    assert "me/tiny" not in server.repos
    done = run_ditzoo("push", name, "me/tiny", "--license", "MIT", "--private", env=env)
    assert done.returncode == 0, done.stderr
    assert "licence: MIT" in done.stderr
    assert server.repos["me/tiny"].private
    assert b"license: mit" in server.files("me/tiny")["README.md"]
    anonymous = run_ditzoo("push", name, "me/other", "--license", "MIT", env=hub_environment(server, tmp_path / "home"))
    assert anonymous.returncode == 2
    assert "the hub refused to publish" in anonymous.stderr
    assert "Traceback" not in anonymous.stderr
    done = run_ditzoo("push", f"local-dir:{folders / 'whole'}", "me/dit", env=env)  # its autoencoder goes along, its licence too
    assert done.returncode == 0, done.stderr
    assert "vae/diffusion_pytorch_model.safetensors" in server.files("me/dit")
    ditzoo.load("hf-hub:me/dit").sample(class_labels=[1], num_inference_steps=1)
