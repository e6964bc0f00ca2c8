"""The hub on the loopback answers the real client as the hub does."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub as hub
import pytest
from hub_server import HubServer, hub_environment, in_process, offline
from huggingface_hub import errors

SMALL, LARGE = b'{"width": 3}', bytes(range(256)) * 20
FILES = {"config.json": SMALL, "deep/er/model.safetensors": LARGE, "empty.bin": b""}
CARD = b"---\ntags: [ditzoo]\nlicense: mit\n---\n# A model\n"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as running:
        in_process(running, tmp_path / "home", monkeypatch)
        yield running


def asked(server: HubServer) -> list[str]:
    return [f"{request.method} {request.path.split('?')[0]} {request.status}" for request in server.log]


def test_revisions_and_what_is_missing(server, tmp_path):
    old = server.add("a/b", {"config.json": b"{}"})
    server.tag("a/b", "v1")
    new = server.add("a/b", FILES)
    asking = server.add("a/b", {"config.json": b"[]"}, revision="refs/pr/1")
    contents = {old: b"{}", new: SMALL, asking: b"[]"}
    for revision, commit in {"main": new, new: new, old: old, "v1": old, "refs/pr/1": asking}.items():
        path = Path(hub.hf_hub_download("a/b", "config.json", revision=revision))
        assert path.read_bytes() == contents[commit]
        assert path == tmp_path / "home/hub/models--a--b/snapshots" / commit / "config.json"
        assert hub.resolve_revision("a/b", revision=revision).resolved == commit
    refs = hub.list_repo_refs("a/b", include_pull_requests=True)
    named = {ref.name: ref.target_commit for ref in (*refs.branches, *refs.tags, *refs.pull_requests)}
    assert named == {"main": new, "v1": old, "1": asking}
    with pytest.raises(errors.RevisionNotFoundError):
        hub.hf_hub_download("a/b", "config.json", revision="v2")
    with pytest.raises(errors.RemoteEntryNotFoundError):
        hub.hf_hub_download("a/b", "absent.json")
    assert (tmp_path / "home/hub/models--a--b/.no_exist" / new / "absent.json").exists()
    with pytest.raises(errors.RepositoryNotFoundError):
        hub.hf_hub_download("a/none", "config.json")


def test_snapshot_then_offline_asks_nothing(server, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    commit = server.add_folder("a/b", folder)
    snapshot = Path(hub.snapshot_download("a/b"))
    assert {str(path.relative_to(snapshot)): path.read_bytes() for path in snapshot.rglob("*") if path.is_file()} == FILES
    assert hub.HfApi().verify_repo_checksums("a/b").mismatches == []
    assert asked(server)[:2] == ["GET /api/models/a/b/revision/main 200", f"GET /api/models/a/b/tree/{commit} 200"]
    assert f"HEAD /a/b/resolve/{commit}/deep/er/model.safetensors 302" in asked(server)
    sizes = {file.rfilename: (file.size, bool(file.lfs)) for file in hub.model_info("a/b", files_metadata=True).siblings}
    assert sizes == {"config.json": (12, False), "deep/er/model.safetensors": (5120, True), "empty.bin": (0, False)}
    assert [entry.path for entry in hub.HfApi().list_repo_tree("a/b", "deep")] == ["deep/er"]
    assert [entry.size for entry in hub.HfApi().get_paths_info("a/b", ["config.json", "none"])] == [12]
    offline(monkeypatch)
    server.log.clear()
    assert Path(hub.snapshot_download("a/b")) == snapshot
    with pytest.raises(errors.LocalEntryNotFoundError):
        hub.snapshot_download("a/c")
    assert server.log == []
    offline(monkeypatch, on=False)
    server.fault.down()
    assert Path(hub.snapshot_download("a/b")) == snapshot  # what is there is used
    assert asked(server) == ["GET /api/models/a/b/revision/main 503"]
    server.stop()
    assert Path(hub.snapshot_download("a/b")) == snapshot
    assert len(server.log) == 1


def test_a_cut_download_goes_on_where_it_stopped(server, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client waits a second before it goes on
    content = os.urandom(1 << 20) * 25
    server.add("a/b", {"model.safetensors": content, "config.json": SMALL})
    server.fault.cut("a/b", "model.safetensors", after=22 << 20)
    server.fault.cut("a/b", "config.json", after=4, times=2)
    path = Path(hub.hf_hub_download("a/b", "model.safetensors"))
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(content).digest()
    ranges = [request.headers.get("range") for request in server.log if request.store]
    assert ranges == [None, f"bytes={20 << 20}-"]  # it keeps whole chunks of 10 MiB
    assert Path(hub.hf_hub_download("a/b", "config.json")).read_bytes() == SMALL


def test_the_client_takes_what_is_damaged(server):
    """It compares sizes alone; but it names the file in its cache by the hash of the true content."""
    server.add("a/b", FILES)
    for name, algorithm in {"deep/er/model.safetensors": hashlib.sha256(), "config.json": hashlib.sha1(b"blob 12\0")}.items():
        server.fault.corrupt("a/b", name, offset=7)
        path = Path(hub.hf_hub_download("a/b", name))
        assert [at for at, (sent, true) in enumerate(zip(path.read_bytes(), FILES[name], strict=True)) if sent != true] == [7]
        algorithm.update(FILES[name])
        assert path.resolve().name == algorithm.hexdigest()


def test_gates_and_tokens(server):
    server.add("a/gated", FILES, gated=True)
    server.add("a/private", FILES, private=True)
    assert hub.model_info("a/gated").gated == "manual"
    for token, status in ((None, 401), ("hf_other", 403)):
        for download in (hub.snapshot_download, lambda *a, **k: hub.hf_hub_download(*a, "config.json", **k)):
            with pytest.raises(errors.GatedRepoError) as gate:
                download("a/gated", token=token)
            assert gate.value.response.status_code == status
        with pytest.raises(errors.RepositoryNotFoundError):
            hub.model_info("a/private", token=token)
    with pytest.raises(errors.HfHubHTTPError, match="Invalid credentials"):
        hub.hf_hub_download("a/private", "config.json", token="hf_nobody")
    server.log.clear()
    for repo in ("a/gated", "a/private"):
        assert Path(hub.hf_hub_download(repo, "deep/er/model.safetensors", token="hf_good")).read_bytes() == LARGE
    assert {("authorization" in request.headers, request.store) for request in server.log} == {(True, False), (False, True)}


def test_push_and_find(server, tmp_path):
    with pytest.raises(errors.HfHubHTTPError) as refused:
        hub.create_repo("me/new")
    assert refused.value.response.status_code == 401
    api = hub.HfApi(token="hf_good")
    assert api.whoami()["name"] == "tester"
    for _ in range(2):
        assert api.create_repo("me/new", exist_ok=True).repo_id == "me/new"
    with pytest.raises(errors.HfHubHTTPError, match="already created"):
        api.create_repo("me/new")
    (tmp_path / "model.safetensors").write_bytes(LARGE)
    (tmp_path / "README.md").write_bytes(CARD)
    done = api.upload_folder(repo_id="me/new", folder_path=tmp_path, allow_patterns=["model.safetensors", "README.md"])
    pushed = {name: content for name, content in server.files("me/new", done.oid).items() if name != ".gitattributes"}
    assert pushed == {"model.safetensors": LARGE, "README.md": CARD}
    assert [request.method for request in server.log if request.store] == ["PUT"]
    assert Path(hub.hf_hub_download("me/new", "model.safetensors")).read_bytes() == LARGE
    api.create_branch("me/new", branch="dev")
    api.create_tag("me/new", tag="v1")
    api.upload_file(repo_id="me/new", path_or_fileobj=b"x", path_in_repo="folder/note.txt", revision="dev")
    api.delete_file("README.md", "me/new", revision="dev")
    assert sorted(server.files("me/new", "dev")) == [".gitattributes", "folder/note.txt", "model.safetensors"]
    asking = api.upload_file(repo_id="me/new", path_or_fileobj=b"y", path_in_repo="note.txt", create_pr=True)
    assert (asking.pr_revision, server.files("me/new", "refs/pr/1")["note.txt"]) == ("refs/pr/1", b"y")
    assert server.files("me/new") == server.files("me/new", "v1")
    with pytest.raises(ValueError, match="Invalid metadata"):
        api.upload_file(repo_id="me/new", path_or_fileobj=b"---\na: [\n---\n", path_in_repo="README.md")
    with pytest.raises(errors.HfHubHTTPError) as refused:
        hub.upload_file(repo_id="me/new", path_or_fileobj=b"x", path_in_repo="x", token="hf_other")
    assert refused.value.response.status_code == 403
    server.add("a/b", FILES, tags=["ditzoo", "other"])
    server.add("a/c", FILES, tags=["other"])
    assert [model.id for model in hub.list_models(filter="ditzoo")] == ["me/new", "a/b"]  # the first by its card
    assert [model.id for model in hub.list_models(filter=["ditzoo", "other"], search="B")] == ["a/b"]
    assert "license:mit" in hub.model_info("me/new").tags


def test_another_process(server, tmp_path):
    server.add("a/b", FILES, gated=True)
    code = "import huggingface_hub as h; print(h.hf_hub_download('a/b', 'config.json'), h.get_token())"
    env = os.environ | hub_environment(server, tmp_path / "other", HF_TOKEN="hf_good")
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, timeout=60)
    path, token = done.stdout.split()
    assert (Path(path).read_bytes(), token, path.startswith(f"{tmp_path}/other/hub/")) == (SMALL, "hf_good", True)
