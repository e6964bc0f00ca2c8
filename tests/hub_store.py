"""What the loopback hub keeps: contents under their hashes, repositories as commits and refs, the faults that a test orders."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import yaml

CHUNK = 1 << 20
LARGE = (".bin", ".safetensors", ".pt")
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LARGE).encode()


@dataclass(frozen=True)
class Blob:
    """One content under both of its names: a large file's sha256, a small one's sha1 as git takes it."""

    content: bytes | Path
    size: int
    sha256: str
    sha1: str

    @classmethod
    def of(cls, content: bytes | Path) -> Blob:
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        sha256, sha1 = hashlib.sha256(), hashlib.sha1(f"blob {size}\0".encode())
        with cls(content, size, "", "").open() as file:
            while chunk := file.read(CHUNK):
                sha256.update(chunk)
                sha1.update(chunk)
        return cls(content, size, sha256.hexdigest(), sha1.hexdigest())

    def open(self) -> BinaryIO:
        return self.content.open("rb") if isinstance(self.content, Path) else io.BytesIO(self.content)

    def read(self) -> bytes:
        with self.open() as file:
            return file.read()


def is_large(path: str, size: int) -> bool:
    return size > 1 << 20 or (size > 0 and path.endswith(LARGE))  # the client sends empty files as small ones, whatever it is told


def front_matter(card: str) -> dict[str, Any]:
    match = re.match(r"---\r?\n(.*?)\r?\n---", card, re.DOTALL)
    return (yaml.safe_load(match[1]) if match else None) or {}


def full_ref(revision: str) -> str:
    return revision if revision.startswith("refs/") else f"refs/heads/{revision}"


class Refusal(Exception):  # noqa: N818 - an answer of the hub, not a mistake
    """A status with the headers that choose the client's exception."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        self.status, self.data = status, {"error": message}
        self.headers = headers | {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})


@dataclass
class Repo:
    id: str
    private: bool = False
    gated: bool = False
    tags: list[str] = field(default_factory=list)
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)  # "refs/heads/main", "refs/tags/v1", "refs/pr/1" -> commit

    def commit(self, ref: str, files: Mapping[str, Blob]) -> str:
        content = [(path, blob.sha256) for path, blob in sorted(files.items())]
        sha = hashlib.sha1(repr((self.id, ref, self.refs.get(ref), content)).encode()).hexdigest()
        self.commits[sha], self.refs[ref] = dict(files), sha
        return sha

    def find(self, revision: str) -> str:
        """Return the commit of a branch, tag, full reference, or commit of which at least seven digits are given."""
        named = (self.refs.get(prefix + revision) for prefix in ("refs/heads/", "refs/tags/", ""))
        commits = (sha for sha in self.commits if len(revision) >= 7 and sha.startswith(revision))
        if found := next((sha for sha in (*named, *commits) if sha), None):
            return found
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def tree(self, revision: str) -> dict[str, dict[str, Any]]:
        """Return what tree and paths-info say of each path; git holds a pointer in place of a large file."""
        told: dict[str, dict[str, Any]] = {}
        for path, blob in self.commits[self.find(revision)].items():
            for folder in map(str, PurePosixPath(path).parents[:-1]):
                told[folder] = {"type": "directory", "path": folder, "size": 0, "oid": hashlib.sha1(folder.encode()).hexdigest()}
            told[path] = {"type": "file", "path": path, "size": blob.size, "oid": blob.sha1}
            if is_large(path, blob.size):
                pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{blob.sha256}\nsize {blob.size}\n".encode()
                lfs = {"oid": blob.sha256, "sha256": blob.sha256, "size": blob.size, "pointerSize": len(pointer)}
                told[path] |= {"oid": Blob.of(pointer).sha1, "lfs": lfs}
        return dict(sorted(told.items()))

    def info(self, revision: str = "main", *, blobs: bool = False) -> dict[str, Any]:
        sha = self.find(revision)
        card = front_matter(self.commits[sha]["README.md"].read().decode()) if "README.md" in self.commits[sha] else {}
        words = [card.get("library_name"), card.get("pipeline_tag"), f"license:{card['license']}" if "license" in card else None]
        files = [file for file in self.tree(sha).values() if file["type"] == "file"]
        known = [{"size": file["size"], "blobId": file["oid"], "lfs": file.get("lfs")} if blobs else {} for file in files]
        now = "2024-01-01T00:00:00.000Z"
        told = {"id": self.id, "author": self.id.split("/")[0], "sha": sha, "createdAt": now, "lastModified": now}
        told |= {"private": self.private, "gated": "manual" if self.gated else False, "disabled": False, "downloads": 0, "likes": 0}
        told |= {"cardData": card, "library_name": words[0], "pipeline_tag": words[1]}
        told |= {"tags": list(dict.fromkeys(filter(None, [*self.tags, *card.get("tags", []), *words])))}
        return told | {"siblings": [{"rfilename": file["path"]} | more for file, more in zip(files, known, strict=True)]}


@dataclass(frozen=True)
class Request:
    """What was asked and how it was answered (0: not at all). `path` has its query; names of `headers` are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    status: int
    store: bool  # asked of the store of large files, not of the hub


class Faults:
    """What goes wrong, as a test orders it."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.cuts: dict[tuple[str, str], list[int]] = {}
        self.flips: dict[tuple[str, str], int] = {}
        self.status: int | None = None

    def cut(self, repo: str, filename: str, *, after: int, times: int = 1) -> None:
        """Close the connection after so many bytes of the body, in the next `times` answers that are longer."""
        self.cuts[repo, filename] = [after] * times

    def corrupt(self, repo: str, filename: str, offset: int) -> None:
        """Send one byte wrong; size and ETag stay those of the true content."""
        self.flips[repo, filename] = offset

    def down(self, status: int = 503) -> None:
        """Answer every request with a status, or with 0 close the connection; `clear` ends it. To refuse connections, stop the server."""
        self.status = status

    def chunks(self, repo: str, path: str, blob: Blob, start: int, stop: int) -> Iterator[bytes]:
        """Yield bytes `start` to `stop` of a file, fewer if the answer is to be cut."""
        cuts, flip = self.cuts.get((repo, path)), self.flips.get((repo, path), -1)
        if cuts and cuts[0] < stop - start:
            stop = start + cuts.pop()
        with blob.open() as file:
            file.seek(start)
            while start < stop and (chunk := bytearray(file.read(min(CHUNK, stop - start)))):
                if start <= flip < start + len(chunk):
                    chunk[flip - start] ^= 0xFF
                yield bytes(chunk)
                start += len(chunk)
