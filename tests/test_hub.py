"""The hub, spoken to by its real client over the loopback: names, revisions, offline, damage on the way, locks, pushes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import equal, refused, run_ditzoo, tiny
from hub_server import offline
from pipelines import LABELS

import ditzoo
from ditzoo.assemble import build
from ditzoo.errors import DitzooError, HubError
from ditzoo.hub import Repository, parse

REPO = "facebook/DiT-tiny"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


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


def test_a_repository_in_diffusers_layout_leaves_early_as_it_is(server, folders):
    server.add_folder(REPO, folders / "whole")
    request = {"class_labels": [7, 3], "num_inference_steps": 10, "seed": 1, "output_type": "latent"}
    full = ditzoo.load(f"hf-hub:{REPO}", settings=["sampler.kind=ddim"]).sample(**request)
    depth = ditzoo.load(f"hf-hub:{REPO}").backbone.depth
    assert full.ledger.block_evals == 2 * 2 * 10 * depth
    policy = "{kind='exit-residual', prefix=0, every=3, warmup=%d, whole_above=1.0}"
    for warmup, whole in ((10, 10), (2, 4)):  # looks 1, 2, 5 and 8
        early = f"sampler={{kind='early-exit', inner='ddim', policy={policy % warmup}}}"
        drawn = ditzoo.load(f"hf-hub:{REPO}", settings=[early]).sample(**request)
        assert drawn.ledger.block_evals == 2 * 2 * whole * depth
        assert torch.isfinite(drawn.images).all()
        assert torch.equal(drawn.images, full.images) == (whole == 10)


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
