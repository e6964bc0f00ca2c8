"""The hub, spoken to by its real client over the loopback: names, revisions, offline, damage on the way, locks, pushes."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import refused, run_ditzoo, tiny, wake
from hub_server import HubServer, hub_environment, in_process, offline
from pipelines import LABELS, published, written

import ditzoo
from ditzoo.assemble import build
from ditzoo.errors import DitzooError, HubError, LockError
from ditzoo.hub import Repository, parse
from ditzoo.locks import hold, lock
from ditzoo.sources import resolve

REPO = "facebook/DiT-tiny"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One repository of each sort: diffusers' today, in shards, as published in 2023, and ditzoo's own."""
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


@pytest.mark.parametrize("sort", ["whole", "shards", "pickle"])
def test_loaded_once_it_works_offline_without_a_request(server, folders, monkeypatch, sort, tmp_path):
    commit = server.add_folder(REPO, folders / sort)
    by_branch = ditzoo.load(f"hf-hub:{REPO}")
    assert equal(by_branch, ditzoo.load(f"local-dir:{folders / sort}"))
    server.log.clear()
    assert equal(ditzoo.load(f"hf-hub:{REPO}@{commit}"), by_branch)  # a commit is for ever: nobody is asked
    assert server.log == []
    ditzoo.load(f"hf-hub:{REPO}")
    assert [request.path for request in server.log] == [f"/api/models/{REPO}/revision/main"]  # a branch may have moved: one question
    server.log.clear()
    offline(monkeypatch)
    for name in (f"hf-hub:{REPO}", f"hf-hub:{REPO}@main", f"hf-hub:{REPO}@{commit}"):
        model = ditzoo.load(name)
        model.sample(class_labels=["kind 7"], num_inference_steps=1, output_type="latent")
    assert equal(model, by_branch)
    code = f"import ditzoo; ditzoo.load('hf-hub:{REPO}@{commit}'); ditzoo.load('hf-hub:{REPO}')"
    import subprocess

    subprocess.run([sys.executable, "-c", code], check=True)  # a process of its own, which inherits the environment
    assert server.log == []


def test_pictures_are_decoded_by_the_repositorys_autoencoder_offline(server, folders, monkeypatch):
    server.add_folder(REPO, folders / "whole")
    assert run_ditzoo("pull", f"hf-hub:{REPO}").returncode == 0
    offline(monkeypatch)
    server.log.clear()
    model = ditzoo.load(f"hf-hub:{REPO}")
    assert model.sample(class_labels=[7], num_inference_steps=1).images[0].size == (64, 64)
    assert server.log == []


def test_a_catalogue_name_is_one_commit(server, folders, tmp_path, zoo):
    """A TOML with repo and revision, as the catalogue has them: later commits change nothing, labels come with the weights."""
    commit = server.add_folder(REPO, folders / "pickle")
    server.add(REPO, {"model_index.json": b"{}"})
    text = (Path(__file__).parent.parent / "registry" / "dit-xl-2-256.toml").read_text()
    text = text.replace("facebook/DiT-XL-2-256", REPO).replace("eab87f77abd5aef071a632f08807fbaab0b704d0", commit)
    text = text.replace('size = "XL"', "width = 64\ndepth = 3\nheads = 4\ninput_size = [8, 8]").replace('name = "dit-xl-2-256"\n', "")
    (tmp_path / "dit-tiny.toml").write_text(text)
    model = ditzoo.load(str(tmp_path / "dit-tiny.toml"))
    assert equal(model, ditzoo.load(f"local-dir:{folders / 'whole'}"))
    assert model.spec.prompt.names == tuple(LABELS.values())
    with pytest.raises(DitzooError, match="hf-hub:facebook/DiT-tiny@"):
        ditzoo.load(str(tmp_path / "dit-tiny.toml"), revision="main")  # that commit holds no model


def test_show_and_check_fetch_no_weights(server, folders):
    server.add_folder(REPO, folders / "whole")
    shown = run_ditzoo("show", f"hf-hub:{REPO}")
    assert shown.returncode == 0, shown.stderr
    assert "License: cc-by-nc-4.0" in shown.stdout
    assert "read as layout 'diffusers-dit'" in shown.stdout
    wrong = run_ditzoo("check", f"hf-hub:{REPO}", "--set", "schedule.kind=flow")
    assert "does not fit these weights" in wrong.stderr
    assert not [request for request in server.log if request.store]


def test_revisions_are_branches_tags_pull_requests_and_commits(server, folders):
    first = server.add_folder(REPO, folders / "whole")
    server.tag(REPO, "v1")
    second = server.add_folder(REPO, folders / "shards")
    server.add_folder(REPO, folders / "whole", revision="refs/pr/1")
    commits = {name: Repository(REPO, name).commit for name in (None, "main", "v1", first, second)}
    assert commits == {None: second, "main": second, "v1": first, first: first, second: second}
    assert Repository(REPO, "refs/pr/1").commit not in (first, second)
    assert parse(f"hf-hub:{REPO}@v1") == (REPO, "v1")


def test_damage_on_the_way_does_not_stay_in_the_cache(server, folders, tmp_path):
    server.add_folder(REPO, folders / "whole")
    server.fault.corrupt(REPO, WEIGHTS, 200_000)
    with pytest.raises(
        HubError, match=r"diffusion_pytorch_model.safetensors of .* arrived damaged: its hash is [0-9a-f]{64}, .* fetch it again"
    ):
        ditzoo.load(f"hf-hub:{REPO}")
    server.fault.clear()
    assert equal(ditzoo.load(f"hf-hub:{REPO}"), ditzoo.load(f"local-dir:{folders / 'whole'}"))
    server.fault.corrupt("other/DiT", "transformer/config.json", 5)
    server.add_folder("other/DiT", folders / "whole")
    with pytest.raises(HubError, match="config.json of hf-hub:other/DiT.* arrived damaged"):
        ditzoo.load("hf-hub:other/DiT")
    server.fault.clear()
    ditzoo.load("hf-hub:other/DiT")


def test_a_connection_that_is_cut_goes_on_or_says_so(server, tmp_path, zoo):
    spec = zoo.model(tiny(backbone={"width": 256, "heads": 4, "depth": 3}))
    model = build(spec)
    model.save_pretrained(tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").stat().st_size > 11 << 20
    server.add_folder(REPO, tmp_path / "model")
    server.fault.cut(REPO, "model.safetensors", after=(10 << 20) + 5)
    assert equal(ditzoo.load(f"hf-hub:{REPO}"), model)
    assert any("range" in request.headers and not request.headers["range"].startswith("bytes=0-") for request in server.log)
    server.add_folder("other/DiT", tmp_path / "model")
    server.fault.cut("other/DiT", "model.safetensors", after=1 << 20, times=50)
    with pytest.raises(HubError, match="could not fetch .* of hf-hub:other/DiT.*what arrived is kept out, so try again"):
        ditzoo.load("hf-hub:other/DiT")
    cache = tmp_path / "home" / "hub" / "models--other--DiT"
    assert not list(cache.rglob("model.safetensors"))
    server.fault.clear()
    assert equal(ditzoo.load("hf-hub:other/DiT"), model)


REFUSED = {
    "no such repository": ("hf-hub:facebook/DiT-tinny", [], ["no repository 'facebook/DiT-tinny'", "check the spelling", "hf auth login"]),
    "nearly a catalogued one": ("hf-hub:facebook/DiT-XL-2-255", [], ["did you mean 'facebook/DiT-XL-2-256'"]),
    "no such branch": (f"hf-hub:{REPO}@mian", [], ["has no revision 'mian'; did you mean 'main'", "branches and tags: main, v1"]),
    "no such commit": (f"hf-hub:{REPO}@{'0' * 40}", [], [f"has no revision '{'0' * 40}'", "main, v1"]),
    "no such file": (
        f"hf-hub:{REPO}",
        ["weights.file=transformer/other.safetensors"],
        ["no weights in hf-hub:facebook/DiT-tiny@", "looked for transformer/other.safetensors"],
    ),
    "gated, no token": (
        "hf-hub:gated/DiT",
        [],
        ["hf-hub:gated/DiT", "is gated: no token was sent; accept the terms at https://huggingface.co/gated/DiT, then log in"],
    ),
    "private": ("hf-hub:private/DiT", [], ["no repository 'private/DiT' on the hub, or it is private and your token cannot see it"]),
    "no repository name": ("hf-hub:DiT", [], ["'hf-hub:DiT' is no repository name: owner/name is expected"]),
    "an impossible name": ("hf-hub:a b/c..d", [], ["is no repository name: owner/name is expected"]),
    "without a prefix": (REPO, [], [f"For a folder write 'local-dir:{REPO}', for a hub repository 'hf-hub:{REPO}'"]),
    "no model": ("hf-hub:text/only", [], ["holds no model: no ditzoo.json, model_index.json or config.json at its top, and no checkpoint"]),
    "a language model": ("hf-hub:text/model", [], ["is a 'llama', which no installed layout reads"]),
    "two checkpoints": ("hf-hub:two/checkpoints", [], ["holds 2 checkpoints and no spec: a.pt, b.pt; choose one with weights.file=NAME"]),
    "an index that climbs": (
        "hf-hub:bad/index",
        [],
        ["into '../../../secret.safetensors', which is not a plain file beside it; do not trust"],
    ),
    "a shard less": ("hf-hub:lost/shard", [], ["lacks 1 of the", "diffusion_pytorch_model-00002-of-"]),
}


@pytest.fixture
def crowd(server, folders):
    """A hub with everything that can be wrong with a repository."""
    server.add_folder(REPO, folders / "whole")
    server.tag(REPO, "v1")
    server.add_folder("facebook/DiT-XL-2-256", folders / "whole", private=True)
    server.add_folder("gated/DiT", folders / "whole", gated=True)
    server.add_folder("private/DiT", folders / "whole", private=True)
    server.add("text/only", {"notes.txt": b"hello"})
    server.add("text/model", {"config.json": b'{"model_type": "llama"}', "model.safetensors": b"x"})
    server.add("two/checkpoints", {"a.pt": b"x", "b.pt": b"y"})
    shards = {
        path.relative_to(folders / "shards").as_posix(): path.read_bytes() for path in (folders / "shards").rglob("*") if path.is_file()
    }
    index = json.loads(shards[f"{WEIGHTS}.index.json"])
    climbing = {**index, "weight_map": {**index["weight_map"], "proj_out_2.bias": "../../../secret.safetensors"}}
    server.add("bad/index", shards | {f"{WEIGHTS}.index.json": json.dumps(climbing).encode()})
    server.add("lost/shard", {name: data for name, data in shards.items() if "-00002-of-" not in name})
    return server


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_had_is_told_in_one_sentence(crowd, tmp_path, capsys, monkeypatch, case):
    name, settings, told = REFUSED[case]
    flags = [word for setting in settings for word in ("--set", setting)]
    message = refused(capsys, monkeypatch, "sample", name, *flags, "--out", tmp_path / "out")
    for part in told:
        assert part in message
    assert len(message.splitlines()) == 1


def test_a_token_without_access_is_told_apart_and_one_with_access_works(crowd):
    with pytest.raises(HubError, match="is gated: your token has no access; ask for it at https://huggingface.co/gated/DiT"):
        ditzoo.load("hf-hub:gated/DiT", token="hf_other")
    for repo in ("gated/DiT", "private/DiT"):
        ditzoo.load(f"hf-hub:{repo}", token="hf_good")


def test_offline_says_what_is_not_in_the_cache(crowd, monkeypatch, folders):
    server = crowd
    Repository(REPO)  # the small files alone
    ditzoo.load("hf-hub:private/DiT", token="hf_good")
    server.add_folder("shards/DiT", folders / "shards")
    ditzoo.load("hf-hub:shards/DiT")
    cache = Path(Repository("shards/DiT").snapshot) / "transformer"
    next(cache.glob("*-00002-of-*")).unlink()
    offline(monkeypatch)
    server.log.clear()
    with pytest.raises(
        HubError,
        match="hf-hub:never/asked is not in the cache, and the hub may not be asked .offline.; fetch it with 'ditzoo pull hf-hub:never/asked'",
    ):
        ditzoo.load("hf-hub:never/asked")
    with pytest.raises(DitzooError, match="no weights in hf-hub:facebook/DiT-tiny@"):
        ditzoo.load(f"hf-hub:{REPO}")
    with pytest.raises(
        DitzooError, match="lacks 1 of the 10 shards .*-00002-of-.*; fetch the rest with 'ditzoo pull hf-hub:shards/DiT' while online"
    ):
        ditzoo.load("hf-hub:shards/DiT")
    ditzoo.load("hf-hub:private/DiT")
    offline(monkeypatch, on=False)
    assert server.log == []
    ditzoo.load("hf-hub:shards/DiT")
    with pytest.raises(HubError, match="is not in the cache, and the hub may not be asked"):
        ditzoo.load("hf-hub:never/asked", local_files_only=True)


def test_a_hub_that_is_down(server, folders):
    commit = server.add_folder(REPO, folders / "whole")
    ditzoo.load(f"hf-hub:{REPO}")
    server.fault.down()
    ditzoo.load(f"hf-hub:{REPO}")  # what is cached serves
    with pytest.raises(HubError, match="cannot reach the hub for hf-hub:other/DiT: .*check the network, or HF_ENDPOINT"):
        ditzoo.load("hf-hub:other/DiT")
    server.stop()
    ditzoo.load(f"hf-hub:{REPO}@{commit}")
    with pytest.raises(HubError, match="cannot reach the hub"):
        ditzoo.load("hf-hub:other/DiT")


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
    assert any(name.endswith("vae/config.json") for name in model["files"])
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
