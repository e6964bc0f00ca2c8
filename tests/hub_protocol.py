"""The hub's HTTP protocol: which path is answered how, over the repositories of a `HubServer`."""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml
from hub_store import GITATTRIBUTES, Blob, Refusal, Repo, Request, front_matter, full_ref, is_large

ROUTES: list[tuple[str, re.Pattern[str], Callable[..., Any]]] = []


def route(methods: str, path: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Let a method answer requests for a path; {repo} and {rev} are matched before they are unquoted, so that a revision may hold %2F."""
    pattern = re.compile(path.replace("{repo}", "(?P<repo>[^/]+/[^/]+)").replace("{rev}", "(?P<rev>[^/]+)"))
    return lambda function: ROUTES.append((methods, pattern, function)) or function


class Handler(BaseHTTPRequestHandler):
    """One request. A route returns data for JSON, or raises what it refuses; those for files write their own answer."""

    protocol_version = "HTTP/1.1"
    server: Listener
    hub: Any

    def do_GET(self) -> None:
        self.hub = self.server.hub
        self.query = parse_qs(urlsplit(self.path).query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        try:
            if self.hub.fault.status is not None:
                raise Refusal(self.hub.fault.status, "The hub is down")
            data = self.routed()
            if data is not None:
                self.send(200, {}, data)
        except Refusal as refusal:
            self.send(refusal.status, refusal.headers, refusal.data)

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 - http.server's names

    def routed(self) -> Any:
        if self.token is not None and self.token not in self.hub.tokens | self.hub.no_access:
            raise Refusal(401, "Invalid credentials in Authorization header")
        for methods, pattern, function in ROUTES:
            if self.command in methods.split() and (match := pattern.fullmatch(urlsplit(self.path).path)):
                return function(self, **{name: unquote(piece or "") for name, piece in match.groupdict().items()})
        raise Refusal(501, f"tests/hub_protocol.py does not speak {self.command} {self.path}")

    def send(self, status: int, headers: Mapping[str, str], data: Any, length: int | None = None) -> None:
        """Answer with JSON, or with chunks of a file if `length` is given. Nothing is kept alive, so a stopped server answers nobody."""
        asked = {name.lower(): value for name, value in self.headers.items()}
        self.hub.log.append(Request(self.command, self.path, asked, status, self.server is self.hub.listeners[1]))
        self.close_connection = True
        if status == 0:
            return
        chunks = [json.dumps(data).encode()] if length is None else data
        self.send_response(status)
        for name, value in {"Content-Length": str(len(chunks[0]) if length is None else length), "Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        for chunk in chunks if self.command != "HEAD" else ():
            self.wfile.write(chunk)

    def send_file(self, repo: str, path: str, blob: Blob, headers: Mapping[str, str]) -> None:
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        first, last = asked.groups() if asked else ("0", "")
        start = int(first) if first else max(blob.size - int(last or 0), 0)
        stop = min(int(last) + 1, blob.size) if first and last else blob.size
        if asked and start >= stop:
            raise Refusal(416, "Range Not Satisfiable", **{"Content-Range": f"bytes */{blob.size}"})
        part = {"Content-Range": f"bytes {start}-{stop - 1}/{blob.size}"} if asked else {}
        chunks = self.hub.fault.chunks(repo, path, blob, start, stop)
        self.send(206 if asked else 200, {"Accept-Ranges": "bytes", **headers, **part}, chunks, stop - start)

    def readable(self, repo: str, *, files: bool = False) -> Repo:
        """Find a repository. Everybody sees what a gated one is; only `files` of it need access."""
        found, trusted = self.hub.repos.get(repo), self.token in self.hub.tokens
        if found is None or (found.private and not trusted):
            raise Refusal(404 if self.token else 401, "Repository not found", "RepoNotFound")
        if files and found.gated and not trusted:
            raise Refusal(403 if self.token else 401, f"Access to model {repo} is restricted", "GatedRepo")
        return found

    def writable(self, repo: str) -> Repo:
        if self.token is None:  # with a code, because the client goes by the bare 401 at https:// addresses only
            raise Refusal(401, "Invalid username or password.", "RepoNotFound")
        if self.token not in self.hub.tokens:
            raise Refusal(403, f"You don't have the rights to write to {repo}")
        return self.readable(repo)

    @route("GET", "/api/whoami-v2")
    def whoami(self) -> Any:
        if self.token is None:
            raise Refusal(401, "Invalid username or password.")
        return {"type": "user", "name": "tester", "orgs": [], "auth": {"accessToken": {"displayName": "tests", "role": "write"}}}

    @route("GET", "/api/models")
    def search(self) -> Any:
        words, tags = self.query.get("search", []), set(self.query.get("filter", []))
        found = [repo.info() for repo in list(self.hub.repos.values()) if not repo.private or self.token in self.hub.tokens]
        return [info for info in found if tags <= set(info["tags"]) and all(word.lower() in info["id"].lower() for word in words)]

    @route("GET", "/api/models/{repo}(?:/revision/{rev})?")
    def info(self, repo: str, rev: str) -> Any:
        return self.readable(repo).info(rev or "main", blobs=self.query.get("blobs", [""])[0].lower() == "true")

    @route("GET", "/api/models/{repo}/refs")
    def refs(self, repo: str) -> Any:
        told: dict[str, list[Any]] = {"heads": [], "tags": [], "pr": []}
        for ref, sha in list(self.readable(repo).refs.items()):
            _, kind, name = ref.split("/", 2)
            told[kind].append({"name": name, "ref": ref, "targetCommit": sha})
        return {"branches": told["heads"], "tags": told["tags"], "converts": [], "pullRequests": told["pr"]}

    @route("GET", "/api/models/{repo}/tree/{rev}(?:/(?P<folder>.+))?")
    def tree(self, repo: str, rev: str, folder: str) -> Any:
        entries, deep = self.readable(repo).tree(rev), self.query.get("recursive", [""])[0].lower() == "true"
        if folder and folder not in entries:
            raise Refusal(404, f"{folder} does not exist on {rev}", "EntryNotFound")
        parents = {path: [*map(str, PurePosixPath(path).parents)] for path in entries}
        return [entries[path] for path, above in parents.items() if (folder or ".") in (above if deep else above[:1])]

    @route("POST", "/api/models/{repo}/paths-info/{rev}")
    def paths_info(self, repo: str, rev: str) -> Any:
        entries = self.readable(repo).tree(rev)
        return [entries[path] for path in parse_qs(self.body.decode()).get("paths", []) if path in entries]

    @route("GET HEAD", "/{repo}/resolve/{rev}/(?P<path>.+)")
    def resolve(self, repo: str, rev: str, path: str) -> None:
        found = self.readable(repo, files=True)
        headers = {"X-Repo-Commit": found.find(rev)}
        blob = found.commits[headers["X-Repo-Commit"]].get(path)
        if blob is None:
            raise Refusal(404, "Entry not found", "EntryNotFound", **headers)
        if not is_large(path, blob.size):
            self.send_file(repo, path, blob, headers | {"ETag": f'"{blob.sha1}"'})
            return
        headers |= {"X-Linked-Size": str(blob.size), "X-Linked-ETag": f'"{blob.sha256}"', "Accept-Ranges": "bytes"}
        self.send(302, headers | {"Location": f"{self.hub.store_url}/cdn/{blob.sha256}/{repo}/{quote(path)}"}, "Found")

    @route("GET HEAD", "/cdn/(?P<oid>[^/]+)/{repo}/(?P<path>.+)")
    def stored(self, oid: str, repo: str, path: str) -> None:
        self.send_file(repo, path, self.hub.large[oid], {"ETag": f'"{oid}"'})

    @route("POST", "/api/repos/create")
    def create(self) -> Any:
        if self.token not in self.hub.tokens:
            raise Refusal(403 if self.token else 401, "Invalid username or password.")
        told = json.loads(self.body)
        repo_id = f"{told.get('organization') or 'tester'}/{told['name']}"
        made = {"url": f"{self.hub.url}/{repo_id}", "name": repo_id}
        if repo_id in self.hub.repos:
            self.send(409, {}, made | {"error": f"You already created this model repo: {repo_id}"})
            return None
        self.hub.add(repo_id, {".gitattributes": GITATTRIBUTES}, private=told.get("visibility") == "private" or bool(told.get("private")))
        return made

    @route("POST", "/api/models/{repo}/(?P<what>branch|tag)/{rev}")
    def point(self, repo: str, what: str, rev: str) -> Any:
        """Make a branch called `rev` at its starting point, or a tag at `rev`."""
        found, told = self.writable(repo), json.loads(self.body)
        ref = f"refs/tags/{told['tag']}" if what == "tag" else f"refs/heads/{rev}"
        if ref in found.refs:
            raise Refusal(409, f"Reference already exists: {ref}")
        found.refs[ref] = found.find(rev if what == "tag" else told.get("startingPoint", "main"))
        return {}

    @route("POST", "/api/validate-yaml")
    def validate(self) -> Any:
        try:
            front_matter(json.loads(self.body)["content"])
        except yaml.YAMLError as error:
            self.send(400, {}, {"errors": [{"message": str(error)}], "warnings": []})
            return None
        return {"errors": [], "warnings": []}

    @route("POST", "/api/models/{repo}/preupload/{rev}")
    def preupload(self, repo: str, rev: str) -> Any:
        held, told = self.writable(repo).tree(rev), []
        for file in json.loads(self.body)["files"]:
            large, now = is_large(file["path"], file["size"]), held.get(file["path"], {})
            oid = now.get("lfs", {}).get("oid") if large else now.get("oid")
            told.append({"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid})
        return {"files": told}

    @route("POST", r"/{repo}\.git/info/lfs/objects/batch")
    def batch(self, repo: str) -> Any:
        self.writable(repo)
        told = json.loads(self.body)["objects"]
        for item in told:
            if item["oid"] not in self.hub.large:
                item["actions"] = {"upload": {"href": f"{self.hub.store_url}/upload/{item['oid']}"}}
        return {"transfer": "basic", "objects": told}

    @route("PUT", "/upload/(?P<oid>[^/]+)")
    def upload(self, oid: str) -> Any:
        blob = Blob.of(self.body)
        if blob.sha256 != oid:
            raise Refusal(400, f"the body's sha256 is {blob.sha256}, not {oid}")
        self.hub.large[oid] = blob
        return {}

    @route("POST", "/api/models/{repo}/commit/{rev}")
    def commit(self, repo: str, rev: str) -> Any:
        operations, asks = [json.loads(line) for line in self.body.splitlines()], "create_pr" in self.query
        with self.hub.lock:
            found, ref = self.writable(repo), full_ref(rev)
            head = found.find(ref)
            files = dict(found.commits[head])
            for key, value in ((operation["key"], operation["value"]) for operation in operations):
                match key:
                    case "header" if value.get("parentCommit", head) != head:
                        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
                    case "file":
                        files[value["path"]] = Blob.of(base64.b64decode(value["content"]))
                    case "lfsFile" if value["oid"] not in self.hub.large:
                        raise Refusal(400, f"{value['path']} was not uploaded: no object {value['oid']}")
                    case "lfsFile":
                        files[value["path"]] = self.hub.large[value["oid"]]
                    case "deletedFile" if value["path"] not in files:
                        raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
                    case "deletedFile":
                        del files[value["path"]]
                    case "deletedFolder":
                        files = {path: blob for path, blob in files.items() if not path.startswith(value["path"].rstrip("/") + "/")}
            number = 1 + sum(ref.startswith("refs/pr/") for ref in found.refs)
            commit = found.commit(f"refs/pr/{number}" if asks else ref, files)
        told = {"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/{repo}/commit/{commit}"}
        return told | ({"pullRequestUrl": f"{self.hub.url}/{repo}/discussions/{number}"} if asks else {})

    def log_message(self, *_: object) -> None:
        pass


class Listener(ThreadingHTTPServer):
    hub: Any  # the HubServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # that a client went away is no error here
            super().handle_error(request, client_address)
