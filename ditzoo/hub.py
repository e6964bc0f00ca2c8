"""Repositories of the hub, through huggingface_hub: its cache, its environment variables, its offline mode. No torch.

A repository is opened at one commit: its small files (JSON) are fetched, weights when they are asked for. A commit written
in full that is in the cache needs no request at all. What is freshly fetched is checked against the hash that the hub
announced, because the client does not; a file that fails leaves the cache.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ditzoo.errors import HubError, SpecError, listed
from ditzoo.hub_errors import Access, told
from ditzoo.places import Place, file_sha256, matching

COMMIT = re.compile(r"[0-9a-f]{40}")
LARGE = re.compile(r"[0-9a-f]{64}")  # how the cache names large files: by their sha256
SMALL = ["*.json", "README.md"]
MODELS = ("ditzoo.json", "model_index.json")  # a model can be read from where one of these is
NOT_OURS = ["tokenizer*/*", "*tokenizer.json", "feature_extractor/*"]


class Repository(Place):
    """A hub repository at one commit. Raises `HubError` with the way out where it cannot be opened."""

    def __init__(self, repo: str, revision: str | None = None, access: Access | None = None) -> None:
        self.repo, self.asked, self.access = repo, revision, access or Access()
        self.commit = revision if revision and COMMIT.fullmatch(revision) else None
        cached = self._cached()
        self.complete = cached is None  # are all small files here that the repository has?
        self.snapshot = cached or self._small()
        self.commit = self.snapshot.name

    def __str__(self) -> str:
        return f"hf-hub:{self.repo}" + (f"@{self.commit or self.asked}" if self.commit or self.asked else "")

    @property
    def parts_source(self) -> dict[str, Any]:
        return {"source": self.repo, "revision": self.commit}

    def sha256(self, name: str) -> str:
        """Return the hash of a file: the name of its blob where that is one, which a download was held to."""
        (path,) = self.fetch([name])
        blob = path.resolve().name
        return blob if LARGE.fullmatch(blob) else file_sha256(path)

    @property
    def lock_name(self) -> str:
        return str(self)

    @property
    def cure(self) -> str:
        return (
            f"fetch the rest with 'ditzoo pull hf-hub:{self.repo}' while online"
            if self._offline()
            else "tell its owner, or take another revision"
        )

    def here(self, name: str) -> bool:
        return (self.snapshot / name).is_file()

    def has(self, name: str) -> bool:
        if self.here(name):
            return True
        if name.endswith(".json"):
            if not self.complete:
                self._small()
                self.complete = True
            return self.here(name)
        if self._offline():
            return False
        from huggingface_hub import HfApi

        with self._told(name):
            return bool(HfApi().get_paths_info(self.repo, [name], revision=self.commit, token=self.access.token))

    def names(self) -> list[str]:
        if self._offline():
            return sorted(path.name for path in self.snapshot.iterdir() if path.is_file())
        from huggingface_hub import HfApi

        with self._told():
            files = HfApi().list_repo_files(self.repo, revision=self.commit, token=self.access.token)
        return sorted(name for name in files if "/" not in name)

    def _offline(self) -> bool:
        from huggingface_hub import constants

        return self.access.local_files_only or constants.HF_HUB_OFFLINE

    def fetch(self, names: Iterable[str]) -> list[Path]:
        paths = [self.snapshot / name for name in names]
        absent = [path for path in paths if not path.is_file()]
        if absent:
            self._download([_literal(path.relative_to(self.snapshot).as_posix()) for path in absent])
            missing = [path.relative_to(self.snapshot).as_posix() for path in absent if not path.is_file()]
            if missing:
                raise HubError(f"{self} has no {listed(missing)}{self._partial()}")
            for path in absent:
                self._verify(path)
        return paths

    def fetch_matching(self, patterns: Iterable[str]) -> dict[str, Path]:
        wanted = list(patterns)
        before = matching(self.snapshot, wanted)
        self._download(wanted)
        found = matching(self.snapshot, wanted)
        for name in found.keys() - before.keys():
            self._verify(found[name])
        return found

    def _cached(self) -> Path | None:
        """Return the snapshot in the cache if the commit is known and a model can be read from there: the client stays asleep."""
        from huggingface_hub import constants

        if self.commit is None:
            return None
        repo = Path(self.access.cache_dir or constants.HF_HUB_CACHE) / f"models--{self.repo.replace('/', '--')}"
        snapshot = repo.expanduser() / "snapshots" / self.commit
        return snapshot if any((snapshot / name).is_file() for name in MODELS) else None

    def _small(self) -> Path:
        """Fetch the small files that tell what the repository is, held to their hashes each time: that costs nothing."""
        snapshot = self._download(SMALL, NOT_OURS)
        for path in (path for pattern in SMALL for path in snapshot.rglob(pattern)):
            self._verify(path)
        return snapshot

    def _download(self, patterns: list[str], but_not: list[str] | None = None) -> Path:
        from huggingface_hub import snapshot_download

        with self._told():
            return Path(
                snapshot_download(
                    self.repo,
                    revision=self.commit or self.asked,
                    allow_patterns=patterns,
                    ignore_patterns=but_not,
                    token=self.access.token,
                    cache_dir=self.access.cache_dir,
                    local_files_only=self.access.local_files_only,
                )
            )

    def _verify(self, path: Path) -> None:
        """Hold a fresh file to the hash that the cache named it by: sha256 of large files, git's sha1 of small ones."""
        blob = path.resolve()
        if LARGE.fullmatch(blob.name):
            found = _digest(blob, hashlib.sha256())
        elif COMMIT.fullmatch(blob.name):
            found = _digest(blob, hashlib.sha1(f"blob {blob.stat().st_size}\0".encode()))
        else:
            return  # a cache without links does not keep the hash; `ditzoo lock` does
        if found != blob.name:
            path.unlink()
            blob.unlink(missing_ok=True)
            raise HubError(
                f"{path.name} of {self} arrived damaged: its hash is {found}, and the hub announced {blob.name}; "
                f"it was taken out of the cache, so fetch it again"
            )

    def _partial(self) -> str:
        if self._offline():
            return " in the cache, and the hub may not be asked (offline); fetch it with 'ditzoo pull' while online"
        return ""

    def _told(self, name: str = "") -> AbstractContextManager[None]:
        return told(str(self), self.repo, self.asked, self.access, what=name)


def parse(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """Split `hf-hub:owner/repo@revision` (or without the prefix) into repository and revision."""
    repo, _, told = name.removeprefix("hf-hub:").partition("@")
    if told and revision and told != revision:
        raise SpecError(f"'{name}' names revision '{told}' and revision={revision!r} was given too; give one")
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise SpecError(f"'{name}' is no repository name: owner/name is expected, as in hf-hub:facebook/DiT-XL-2-256@main")
    return repo, told or revision


def find_models(words: Iterable[str], *, tag: str = "ditzoo", limit: int = 50, timeout: float = 3.0) -> list[str]:
    """Ask the hub for repositories with a tag that it finds by the words; raise `HubError` if it does not answer in `timeout` seconds.

    One request without the client's retries: somebody waits for the catalogue's answer.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.utils import build_hf_headers, get_session  # type: ignore[attr-defined]

    if constants.HF_HUB_OFFLINE:
        raise HubError("the hub may not be asked (offline)")
    asked = {"filter": tag, "search": " ".join(words), "limit": str(limit)}
    with told("the hub", "", verb="search"):
        answer = get_session().get(f"{HfApi().endpoint}/api/models", params=asked, headers=build_hf_headers(), timeout=timeout)
        answer.raise_for_status()
        return [f"hf-hub:{row['id']}" for row in answer.json()]


def _literal(name: str) -> str:
    """Write a name as a pattern that matches it alone."""
    return re.sub(r"([*?\[])", r"[\1]", name)


def _digest(path: Path, digest: Any) -> str:
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return str(digest.hexdigest())
