"""A stand-in for the Hugging Face Hub: its HTTP API, as far as huggingface_hub pushes and downloads with it."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_standin"


class Hub(ThreadingHTTPServer):
    """`repositories`: models/USER/NAME or datasets/USER/NAME -> their commits, {path: content}, by name."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}

    def commit(self, repository: str, files: dict[str, bytes]) -> str:
        """Add a commit and return its name."""
        commits = self.repositories[repository]
        files = (commits[list(commits)[-1]] if commits else {}) | files
        name = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        commits[name] = files
        return name

    def environment(self, home: Path) -> dict[str, str]:
        """What a process needs to take this for the Hub, with its cache in `home`."""
        endpoint = f"http://127.0.0.1:{self.server_address[1]}"
        return {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_TELEMETRY": "1"}


@contextlib.contextmanager
def running() -> Iterator[Hub]:
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        path, body = self.path_parts(), self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path == ["api", "validate-yaml"]:
            return self.answer(*validated(json.loads(body)["content"]))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid username or password."})
        if path == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            existed = f"models/{name}" in self.server.repositories
            self.server.repositories.setdefault(f"models/{name}", {})
            return self.answer(
                409 if existed else 200, {"url": f"{self.address()}/{name}", "error": "You already have"}
            )
        repository, action = "/".join(path[1:4]), path[4]
        if action == "preupload":  # the Hub keeps large files elsewhere, which `regular` spares its stand-in
            names = [file["path"] for file in json.loads(body)["files"]]
            return self.answer(
                200, {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
            )
        assert action == "commit"
        lines = [json.loads(line) for line in body.splitlines()]
        files = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines[1:]}
        name = self.server.commit(repository, files)
        return self.answer(200, {"commitUrl": f"{self.address()}/{path[2]}/{path[3]}/commit/{name}", "commitOid": name})

    def do_GET(self) -> None:
        path = self.path_parts()
        if path[0] == "api":
            repository = "/".join(path[1:4])
            commits = self.server.repositories.get(repository)
            if not commits:
                return self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            if path[4:5] in ([], ["revision"]):
                name = list(commits)[-1] if path[5:] in ([], ["main"]) else path[5]
                if name not in commits:
                    return self.answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
                return self.answer(200, {"id": "/".join(path[2:4]), "sha": name})
            assert path[4] == "tree"
            files = commits[path[5]]
            return self.answer(
                200, [{"type": "file", "path": p, "size": len(c), "oid": oid(c)} for p, c in sorted(files.items())]
            )
        kind = "datasets" if path[0] == "datasets" else "models"
        user, name, _, revision, *file = path[kind == "datasets" :]
        content = self.server.repositories[f"{kind}/{user}/{name}"][revision]["/".join(file)]
        return self.answer(200, content, {"ETag": f'"{oid(content)}"', "X-Repo-Commit": revision})

    do_HEAD = do_GET  # noqa: N815

    def path_parts(self) -> list[str]:
        return [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]

    def address(self) -> str:
        return f"http://{self.headers['Host']}"

    def answer(self, code: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


def oid(content: bytes) -> str:
    """Git's name of a file."""
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def validated(card: str) -> tuple[int, dict[str, list]]:
    """What the Hub's check of a card answers: that its metadata are a mapping in YAML."""
    front = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    known = isinstance(yaml.safe_load(front[1]), dict) if front else False
    return (200, {"errors": [], "warnings": []}) if known else (400, {"errors": [{"message": "no metadata"}]})
