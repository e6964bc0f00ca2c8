"""A hub on the loopback for tests: the Hugging Face hub's HTTP protocol, as far as huggingface_hub's own client speaks it.

    with HubServer() as server:
        commit = server.add("owner/name", {"config.json": b"{}", "model.safetensors": Path("local.safetensors")})

Two ports answer, the hub's and its store's: the client reads a large file's metadata off the redirect, and drops its token, only where
the redirect leads to another origin. Xet is never announced, so all transfers are plain HTTP.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hub_protocol import Handler, Listener
from hub_store import Blob, Faults, Repo, Request, full_ref, is_large


class HubServer:
    """The server, while its context lasts. `log` holds what was asked, `fault` what goes wrong; `tokens` may read and write everything.

    A token of `no_access` is valid and may read what is public; one in neither set is refused everywhere, as on the hub.
    """

    def __init__(self) -> None:
        self.log: list[Request] = []
        self.fault = Faults()
        self.tokens, self.no_access = {"hf_good"}, {"hf_other"}
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, Blob] = {}
        self.lock = threading.RLock()
        self.listeners = [Listener(("127.0.0.1", 0), Handler) for _ in range(2)]
        self.url, self.store_url = (f"http://127.0.0.1:{listener.server_port}" for listener in self.listeners)

    def __enter__(self) -> HubServer:
        for listener in self.listeners:
            listener.hub = self
            threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Refuse connections from now on."""
        for listener in self.listeners:
            listener.shutdown()
            listener.server_close()

    def add(
        self,
        repo_id: str,
        files: Mapping[str, bytes | Path],
        *,
        revision: str = "main",
        tags: Iterable[str] | None = None,
        private: bool | None = None,
        gated: bool | None = None,
    ) -> str:
        """Commit exactly these files on a branch (or "refs/pr/1") and return the commit; None leaves a setting as it was."""
        blobs = {path: Blob.of(content) for path, content in files.items()}
        with self.lock:
            repo = self.repos.setdefault(repo_id, Repo(repo_id))
            told = {"private": private, "gated": gated, "tags": None if tags is None else list(tags)}
            vars(repo).update({name: value for name, value in told.items() if value is not None})
            self.large |= {blob.sha256: blob for path, blob in blobs.items() if is_large(path, blob.size)}
            return repo.commit(full_ref(revision), blobs)

    def add_folder(self, repo_id: str, folder: Path, **settings: Any) -> str:
        """Commit the files of a folder, as `add` does; they are served from where they lie."""
        return self.add(repo_id, {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}, **settings)

    def tag(self, repo_id: str, name: str, revision: str = "main") -> None:
        self.repos[repo_id].refs[f"refs/tags/{name}"] = self.repos[repo_id].find(revision)

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Return what a revision holds; a repository that a client created begins with .gitattributes, as on the hub."""
        repo = self.repos[repo_id]
        return {path: blob.read() for path, blob in repo.commits[repo.find(revision)].items()}


def hub_environment(server: HubServer, cache: Path, **extra: str) -> dict[str, str]:
    """Return the variables, to lay over a process's own, that make its client use this server; HF_HOME is `cache`, downloads in cache/hub.

    They take proxies and tokens away; `extra` gives back what a test needs: HF_TOKEN="hf_good", HF_HUB_OFFLINE="1".
    """
    proxies = ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"]
    absent = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE", "TRANSFORMERS_OFFLINE", "HUGGINGFACE_CO_STAGING"]
    off = ["HF_HUB_OFFLINE", "HF_HUB_DISABLE_IMPLICIT_TOKEN"]
    on = ["HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS"]
    folders = {"HF_HOME": "", "HF_HUB_CACHE": "hub", "HF_ASSETS_CACHE": "assets", "HF_TOKEN_PATH": "token"}
    switches = dict.fromkeys([*proxies, *absent], "") | dict.fromkeys(off, "0") | dict.fromkeys(on, "1")
    paths = {name: str(cache / folder) for name, folder in folders.items()}
    return switches | paths | {"HF_ENDPOINT": server.url, "NO_PROXY": "127.0.0.1"} | extra


def in_process(server: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch, **extra: str) -> None:
    """Make the client in this process use the server and cache, and processes started from it too: `hub_environment`, after import."""
    from huggingface_hub import close_session, constants, hf_api

    environment = hub_environment(server, cache, **extra)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    known: dict[str, Any] = {name: value for name, value in environment.items() if name != "HF_HOME"}  # all else derives from it at import
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    known |= {"ENDPOINT": server.url, "HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_URL_HOSTS": constants.HF_URL_HOSTS | {"127.0.0.1"}}
    known |= {"HUGGINGFACE_HUB_CACHE": known["HF_HUB_CACHE"], "HF_STORED_TOKENS_PATH": str(cache / "stored_tokens")}
    _set_constants(monkeypatch, known)
    monkeypatch.setattr(hf_api.api, "endpoint", server.url)  # the instance behind huggingface_hub.model_info() and its like
    monkeypatch.setattr(hf_api.api, "_whoami_cache", {})
    close_session()  # the shared client may hold the proxies of before


def offline(monkeypatch: pytest.MonkeyPatch, on: bool = True) -> None:
    """Turn HF_HUB_OFFLINE on in this process and in those it starts."""
    monkeypatch.setenv("HF_HUB_OFFLINE", str(int(on)))
    _set_constants(monkeypatch, {"HF_HUB_OFFLINE": on})


def _set_constants(monkeypatch: pytest.MonkeyPatch, values: Mapping[str, Any]) -> None:
    """Set constants of huggingface_hub, and the copies that modules took with `from constants import NAME`."""
    from huggingface_hub import constants

    before = {name: getattr(constants, name) for name in values if hasattr(constants, name)}
    libraries = ("huggingface_hub", "diffusers", "transformers")
    users = [module for name, module in list(sys.modules.items()) if name.split(".")[0] in libraries and module is not None]
    for name, old in before.items():
        is_switch = old is None or isinstance(old, bool)
        value = values[name] in ("1", True) if is_switch else type(old)(values[name])
        for module in users:
            if vars(module).get(name, ...) == old:
                monkeypatch.setattr(module, name, value)
