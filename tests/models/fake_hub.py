"""A small Hugging Face Hub on this machine: enough of its protocol for the real client."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from huggingface_hub import constants

TOKEN = "hf_of_ann"


@dataclass
class Repository:
    """Branches lead to commits, commits hold files."""

    private: bool = False
    gated: bool = False
    branches: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})
    commits: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"0" * 40: {}})
    messages: list[str] = field(default_factory=list)

    def add(self, branch: str, files: dict[str, bytes], message: str = "") -> str:
        before = self.branches[branch]
        oid = hashlib.sha1(f"{before}{sorted(files)}{len(self.commits)}".encode()).hexdigest()
        self.commits[oid] = {**self.commits[before], **files}
        self.branches[branch] = oid
        self.messages.append(message)
        return oid

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.branches["main"]]


class FakeHub(ThreadingHTTPServer):
    """Serves repositories; `requests` lists what was asked, as "GET /path"."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.large: dict[str, bytes] = {}
        self.wrong_license = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Refusal(Exception):
    def __init__(self, status: int, code: str = "", message: str = "", **more: object) -> None:
        self.status = status
        self.headers = {"X-Error-Code": code} if code else {}
        self.message = message or code
        self.more = more


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeHub

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self._answer()

    do_GET = do_POST = do_PUT = do_HEAD

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(self.path.partition("?")[0])
        self.server.requests.append(f"{self.command} {path}")
        try:
            status, headers, content = 200, *self._result(path.strip("/").split("/"), body)
        except _Refusal as refusal:
            status, headers = refusal.status, refusal.headers
            content = json.dumps({"error": refusal.message, **refusal.more}).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _result(self, parts: list[str], body: bytes) -> tuple[dict[str, str], bytes]:
        if parts[:1] == ["large"]:
            if self.command == "PUT":
                assert hashlib.sha256(body).hexdigest() == parts[1]
                self.server.large[parts[1]] = body
            return {}, self.server.large[parts[1]]
        if parts[:2] == ["api", "validate-yaml"]:
            if self.server.wrong_license and self.server.wrong_license.encode() in body:
                raise _Refusal(400, errors=[{"message": "license must be one of [...]"}])
            return {}, b'{"errors": [], "warnings": []}'
        if parts[:3] == ["api", "repos", "create"]:
            return {}, self._created(json.loads(body))
        if parts[:2] == ["api", "models"]:
            return {}, self._api("/".join(parts[2:4]), parts[4:], body)
        if len(parts) > 1 and parts[1].endswith(".git"):
            return {}, self._large(json.loads(body))
        if parts[2:3] != ["resolve"]:
            raise _Refusal(404)
        return self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))

    @property
    def _signed_in(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _repository(self, name: str) -> Repository:
        found = self.server.repositories.get(name)
        if found is None or (found.private and not self._signed_in):
            raise _Refusal(404 if self._signed_in else 401, "RepoNotFound")
        return found

    def _created(self, asked: dict[str, Any]) -> bytes:
        if not self._signed_in:
            raise _Refusal(401, message="Invalid username or password.")
        name = f"{asked['organization']}/{asked['name']}"
        url = f"{self.server.url}/{name}"
        if name in self.server.repositories:
            raise _Refusal(409, message="You already created this model repo", url=url)
        private = asked.get("private") or asked.get("visibility") == "private"
        self.server.repositories[name] = Repository(private=bool(private))
        return json.dumps({"url": url, "id": name}).encode()

    def _api(self, name: str, rest: list[str], body: bytes) -> bytes:
        repository = self._repository(name)
        if not rest:
            answer: Any = {"id": name, "private": repository.private, "tags": [], "siblings": []}
        elif not self._signed_in:
            raise _Refusal(401, message="Invalid username or password.")
        elif rest[0] == "branch":
            if rest[1] in repository.branches:
                raise _Refusal(409, message="Reference already exists")
            repository.branches[rest[1]] = repository.branches["main"]
            answer = {}
        elif rest[0] == "preupload":
            answer = {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith("s") else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(body)["files"]
                ]
            }
        else:
            assert rest[0] == "commit"
            answer = self._committed(name, repository, rest[1], body)
        return json.dumps(answer).encode()

    def _committed(self, name: str, repository: Repository, branch: str, body: bytes) -> Any:
        files, message = {}, ""
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                message = value["summary"]
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                files[value["path"]] = self.server.large[value["oid"]]
        oid = repository.add(branch, files, message)
        url = f"{self.server.url}/{name}/commit/{oid}"
        return {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""}

    def _large(self, asked: dict[str, Any]) -> bytes:
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.server.url}/large/{one['oid']}"}}}
            for one in asked["objects"]
        ]
        return json.dumps({"transfer": "basic", "objects": objects}).encode()

    def _file(self, name: str, revision: str, path: str) -> tuple[dict[str, str], bytes]:
        repository = self._repository(name)
        if repository.gated:
            raise _Refusal(403, "GatedRepo")
        oid = repository.branches.get(revision, revision)
        if oid not in repository.commits:
            raise _Refusal(404, "RevisionNotFound")
        if path not in repository.commits[oid]:
            raise _Refusal(404, "EntryNotFound")
        content = repository.commits[oid][path]
        return {"X-Repo-Commit": oid, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}, content


@contextmanager
def fake_hub(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that answers within the block, and a client that knows it, with its cache in `home`."""
    hub = FakeHub()
    template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # a protocol of its own
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "no-token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
