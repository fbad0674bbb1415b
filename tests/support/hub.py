"""A stand-in for the Hugging Face hub's HTTP API on loopback, with faults on demand.

It speaks what the real client asks for: model info with file metadata, and `resolve` with
HEAD and GET, entity tags, commit, linked size, a redirect to where large files lie, and Range.
"""

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".gguf", ".bin")
"""Files kept in git LFS: announced by SHA-256 and served from another path."""
_PIECE = 16 << 10


@dataclass
class Repo:
    """One repository: its files, and what is wrong with it.

    `cut` maps a path to the share of it after which the connection is closed, as often as
    `cuts` says; `corrupt` files are served with a byte changed; `gated` and `private` refuse;
    `hold` files wait, after their first piece, until the event is set. `older` are the files of
    commits that are still there.
    """

    files: dict[str, bytes]
    commit: str = "0123456789abcdef0123456789abcdef01234567"
    cut: dict[str, float] = field(default_factory=dict)
    cuts: int = 1
    corrupt: set[str] = field(default_factory=set)
    gated: bool = False
    private: bool = False
    token: str | None = None
    hold: dict[str, threading.Event] = field(default_factory=dict)
    ignore_range: bool = False
    listing: list[dict[str, Any]] | None = None
    licence: str = "mit"
    older: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def siblings(self, revision: str | None = None) -> list[dict[str, Any]]:
        """The file list as the API has it."""
        if self.listing is not None:
            return self.listing
        return [sibling(path, data) for path, data in self.at(revision).items()]

    def at(self, revision: str | None) -> dict[str, bytes]:
        """The files of a revision."""
        return self.older.get(revision or "", self.files)

    def knows(self, revision: str | None) -> bool:
        """Whether there is such a revision."""
        return revision in (None, "main", self.commit, *self.older)

    def move_on(self, files: dict[str, bytes], commit: str, *, keep: bool = True) -> None:
        """Its makers change it; the commit of before is kept or not."""
        if keep:
            self.older[self.commit] = self.files
        self.files, self.commit = files, commit


@dataclass(frozen=True)
class Served:
    """One answer: what was asked, from which byte, and how many body bytes went out."""

    method: str
    path: str
    status: int
    range: str | None
    sent: int
    authorization: str | None
    user_agent: str


def sibling(path: str, data: bytes) -> dict[str, Any]:
    """One entry of the file list."""
    entry: dict[str, Any] = {
        "rfilename": path,
        "size": len(data),
        "blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
    }
    if path.endswith(LARGE):
        sha256 = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 134}
    return entry


class FakeHub:
    """Runs the server on a thread; `repos` and `served` may be changed and read meanwhile."""

    def __init__(self, **repos: Repo) -> None:
        self.repos: dict[str, Repo] = repos
        self.served: list[Served] = []
        self._lock = threading.Lock()
        hub = self

        class Handler(_Handler):
            owner = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        """The endpoint to give to a client."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def note(self, served: Served) -> None:
        """Remember one answer."""
        with self._lock:
            self.served.append(served)

    def sent(self, path: str) -> list[Served]:
        """The answers with content of that file, in order."""
        with self._lock:
            return [one for one in self.served if one.path.endswith("/" + path) and one.sent]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for repo in self.repos.values():
            for event in repo.hold.values():
                event.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    owner: FakeHub
    # One request a connection: handler threads end with it, so closing waits for nobody.
    protocol_version = "HTTP/1.0"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        parts = [unquote(part) for part in asked.path.split("/") if part]
        match parts:
            case ["api", "models", org, name]:
                self._info(self._repo(org, name), None)
            case ["api", "models", org, name, "revision", revision]:
                self._info(self._repo(org, name), revision)
            case [org, name, "resolve", revision, *path]:
                self._resolve(self._repo(org, name), revision, "/".join(path))
            case ["storage", org, name, *path]:
                self._content(self._repo(org, name), "/".join(path), asked.query)
            case _:
                self._refuse(404, "EntryNotFound")

    def log_message(self, *args: Any) -> None:
        """Silent: tests look at `served`."""

    def _repo(self, org: str, name: str) -> Repo | None:
        self._id = f"{org}/{name}"
        return self.owner.repos.get(self._id)

    def _info(self, repo: Repo | None, revision: str | None) -> None:
        if repo is None or repo.private:
            self._refuse(401, "RepoNotFound")
        elif repo.token and self.headers.get("Authorization") != f"Bearer {repo.token}":
            self._refuse(401, None, "Invalid credentials in Authorization header")
        elif not repo.knows(revision):
            self._refuse(404, "RevisionNotFound")
        else:
            body = {
                "id": self._id,
                "modelId": self._id,
                "sha": revision if revision in repo.older else repo.commit,
                "private": False,
                "gated": "manual" if repo.gated else False,
                "tags": [],
                "downloads": 1,
                "likes": 1,
                "cardData": {"license": repo.licence},
                "siblings": repo.siblings(revision),
            }
            self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _resolve(self, repo: Repo | None, revision: str, path: str) -> None:
        if repo is None or repo.private:
            self._refuse(401, "RepoNotFound")
        elif repo.gated:
            self._refuse(401, "GatedRepo", "Access to this model is restricted")
        elif not repo.knows(revision):
            self._refuse(404, "RevisionNotFound")
        elif path not in repo.at(revision):
            self._refuse(404, "EntryNotFound")
        elif path.endswith(LARGE):
            data = repo.at(revision)[path]
            headers = {
                "Location": f"/storage/{self._id}/{path}?{revision}",
                "X-Repo-Commit": repo.commit,
                "X-Linked-Size": str(len(data)),
                "X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"',
            }
            self._send(302, b"", headers)
        else:
            self._content(repo, path, revision)

    def _content(self, repo: Repo | None, path: str, revision: str) -> None:
        """A file's bytes from where Range says, with the faults asked for."""
        assert repo is not None
        data = repo.at(revision)[path]
        if path in repo.corrupt:
            data = data[:-1] + bytes([data[-1] ^ 1])
        start = 0
        asked = self.headers.get("Range")
        headers = {"X-Repo-Commit": repo.commit, "Accept-Ranges": "bytes", "ETag": self._etag(data)}
        if asked and not repo.ignore_range:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(data):
                self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                return
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        end = len(data)
        if path in repo.cut and repo.cuts > 0 and self.command == "GET":
            repo.cuts -= 1
            end = max(start, int(len(data) * repo.cut[path]))
        status = 206 if "Content-Range" in headers else 200
        self._send(status, data[start:], headers, until=end - start, hold=repo.hold.get(path))

    @staticmethod
    def _etag(data: bytes) -> str:
        return f'"{hashlib.sha1(b"blob %d" % len(data) + data).hexdigest()}"'

    def _refuse(self, status: int, code: str | None, message: str = "") -> None:
        headers = {"X-Error-Message": message} if message else {}
        if code:
            headers["X-Error-Code"] = code
        self._send(status, b'{"error": "refused"}', headers)

    def _send(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str],
        *,
        until: int | None = None,
        hold: threading.Event | None = None,
    ) -> None:
        """Send an answer, or only the first `until` bytes of its body."""
        self.send_response(status, HTTPStatus(status).phrase)
        for key, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        wanted = body[:until] if self.command == "GET" else b""
        sent = 0
        try:
            for at in range(0, len(wanted), _PIECE):
                self.wfile.write(wanted[at : at + _PIECE])
                sent = min(at + _PIECE, len(wanted))
                if hold is not None:
                    self.wfile.flush()
                    hold.wait(30)
        except (BrokenPipeError, ConnectionResetError):
            pass
        self.owner.note(
            Served(
                method=self.command,
                path=urlsplit(self.path).path,
                status=status,
                range=self.headers.get("Range"),
                sent=sent,
                authorization=self.headers.get("Authorization"),
                user_agent=self.headers.get("User-Agent", ""),
            )
        )
