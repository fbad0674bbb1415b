"""What canary tests ask of a server, and what they have read: keys and prompts in every place."""

import base64
import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from opta_lmx.api import rules
from opta_lmx.core.principal import Scope
from tests.contract import failures
from tests.contract.matrix.surfaces import SURFACES
from tests.support.canaries import Canary, stained
from tests.support.live_routes import Way
from tests.support.process import ServerProcess
from tests.support.rawhttp import connected
from tests.support.websocket import WsClient

BODY_LIMIT = 64 * 1024
NAMES = frozenset(
    ["model", "user", "metadata", "safety_identifier", "prompt_cache_key", "previous_response_id"]
)
"""Fields that name a model, a caller, a session or a response: no prompts, and told in the log."""
KINDS = {"chat": "chat-ok", "embedding": "embedding-ok", "rerank": "rerank-ok"}
SCRIPTS: dict[str, dict[str, Any]] = {
    "chat-ok": {"reply": "one two", "infill": True, "thinking": True},
    "chat-raises": {"raise_at_step": 1, "raise_words": "a step that fails"},
    "chat-faults": {"fault_at_step": 1},
    "chat-dies": {"die_at_step": 1},
    "chat-dies-preparing": {"die_preparing": "hopeless"},
    "chat-small": {"context": 16},
    "chat-unloadable": {"fail_load": "no such weights"},
    "embedding-ok": {"kind": "embedding"},
    "rerank-ok": {"kind": "rerank"},
}


class Answer(NamedTuple):
    """What came back: from where, with which status, and the bytes of its body or frames."""

    label: str
    status: int
    headers: str
    body: bytes


class Secrets(NamedTuple):
    """The canaries of one run. `wrong` opens nothing, `brief` was revoked."""

    configured: str
    stored: str
    wrong: str
    brief: str
    prompt: str

    @property
    def keys(self) -> list[Canary]:
        shown = (
            ("a configured key", self.configured),
            ("a stored key", self.stored),
            ("a wrong key", self.wrong),
            ("a revoked key", self.brief),
        )
        made = (("a stored key", self.stored), ("a revoked key", self.brief))
        # Behind what tells which key it is; texts are cut at their end.
        beginnings = [
            Canary(f"{name}'s beginning", text.split("_", 2)[2][:24]) for name, text in made
        ]
        return [*beginnings, *(Canary(name, text[-24:]) for name, text in shown)]

    @property
    def words(self) -> list[Canary]:
        return [Canary("a prompt", re.findall("[0-9a-f]{24}", self.prompt)[0])]


class Run:
    """Everything that is asked, and all that was answered."""

    def __init__(self, server: ServerProcess, secrets: Secrets, ways: list[Way]) -> None:
        self.server = server
        self.secrets = secrets
        self.home = Path()
        self.logs: list[Path] = []
        self.answers: list[Answer] = []
        self.asked: set[tuple[str, str]] = set()
        self.documents: dict[str, bytes] = {}
        self.mounts = [way for way in ways if way.path.endswith("/{rest:path}")]
        self.ways = [(way.method or "WS", way.path) for way in ways]

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secrets.configured}"}

    def http(self, method: str, path: str, label: str, **more: Any) -> Answer:
        """Ask, and keep the answer."""
        url = self.server.url + re.sub(r"{[^}]+}", "none", path)
        shown = more.pop("headers", self.bearer)
        reply = httpx.request(method, url, headers=shown, timeout=60, **more)
        self.asked.add((method, path))
        headers = str([pair for pair in reply.headers.items() if pair[0] != "x-request-id"])
        found = Answer(f"{method} {path}: {label}", reply.status_code, headers, reply.content)
        self.answers.append(found)
        return found

    def socket(self, path: str, label: str, frames: list[str], **more: Any) -> None:
        """Open a socket, say the frames, keep what is heard."""
        self.asked.add(("WS", path))
        heard: list[Any] = []
        more.setdefault("headers", self.bearer)
        try:
            with WsClient(self.server.url, path, **more) as client:
                for frame in frames:
                    client.connection.send(frame)
                    heard.append(client.connection.recv(30))
                    while not _ends(heard[-1]):
                        heard.append(client.connection.recv(30))
            status = 101
        except InvalidHandshake as refused:
            reply = getattr(refused, "response", None)
            status = 0 if reply is None else reply.status_code
            heard.append("" if reply is None else (reply.body or b"").decode())
        except ConnectionClosed as closed:
            status, heard = 101, [*heard, str(closed)]
        body = "\n".join(str(one) for one in heard).encode()
        self.answers.append(Answer(f"WS {path}: {label}", status, "", body))

    def raw(self, label: str, data: bytes) -> None:
        """Send bytes that no client would, and keep what comes back."""
        with connected(self.server.url) as client:
            with contextlib.suppress(OSError):
                client.sendall(data)
            reply = b""
            with contextlib.suppress(OSError):
                while part := client.recv(65_536):
                    reply += part
        status = int(reply.split(b" ", 2)[1]) if reply.startswith(b"HTTP") else 0
        self.answers.append(Answer(f"raw: {label}", status, "", reply))


def _ends(frame: Any) -> bool:
    """Whether nothing more comes for a frame that was sent."""
    kind = json.loads(frame).get("type", "")
    return kind in {"error", "chat.done", "chat.error"} or kind.startswith(
        ("response.completed", "response.failed", "response.incomplete")
    )


# --- what is asked


def show_keys_everywhere(run: Run) -> None:
    """Each key on each route, wherever a key may stand and where it must not."""
    secrets = run.secrets
    for method, path in run.ways:
        for key in (secrets.configured, secrets.stored, secrets.brief, secrets.wrong):
            for shown in (
                {"authorization": f"Bearer {key}"},
                {"x-api-key": key},
                {"x-admin-key": key},
            ):
                _show(run, method, path, shown)
        key = secrets.configured
        misplaced = base64.b64encode(f"user:{key}".encode()).decode()
        for shown in (
            {"authorization": f"Basic {misplaced}"},
            {"authorization": key},
            {"cookie": f"api_key={key}; session={secrets.wrong}"},
            {
                **run.bearer,
                "x-client-id": key,
                "x-request-id": key,
                "referer": f"http://localhost/?api_key={key}",
                "user-agent": f"client ({secrets.stored})",
                "x-session-affinity": secrets.stored,
            },
            {**run.bearer, "host": f"{key}.example"},
            {**run.bearer, "origin": f"https://{secrets.stored}.example"},
            {**run.bearer, "x-priority": secrets.wrong, "traceparent": key},
        ):
            _show(run, method, path, shown)
        for query in (
            f"?api_key={key}",
            f"?key={secrets.stored}&token={secrets.wrong}",
            f"?{key}=1",
            f"?{secrets.stored}=1&{secrets.brief}",
        ):
            _show(run, method, path, run.bearer, query)
            _show(run, method, path, {}, query)


def _show(run: Run, method: str, path: str, headers: dict[str, str], query: str = "") -> None:
    label = f"{', '.join(headers)} {query[:4]}"
    if method == "WS":
        if "host" not in headers:
            run.socket(path + query, label, [], headers=headers)
            run.asked.add(("WS", path))
        return
    # A list is no body of any route, so that nobody who is let in changes anything.
    more = {"content": b"[]"} if method in ("POST", "PUT", "PATCH") else {}
    run.http(method, path + query, label, headers=headers, **more)
    run.asked.add((method, path))


def show_keys_in_paths_and_protocols(run: Run) -> None:
    """Keys that are known by their looks or by the configuration, as parts of addresses."""
    for key in (run.secrets.configured, run.secrets.stored, run.secrets.brief):
        for path in (
            f"/{key}",
            f"/v1/{key}",
            f"/v1/models/{key}",
            f"/v1/messages/{key}",
            f"/api/{key}",
            f"/api/v1/{key}",
            f"/v1/rerank/{key}",
            f"/v1/responses/{key}",
            f"/admin/{key}",
            f"/admin/keys/{key}",
            f"/admin/models/{key}",
        ):
            for headers in ({}, run.bearer):
                for method in ("GET", "POST", "DELETE", "PUT"):
                    if path == f"/admin/keys/{key}" and key != run.secrets.brief:
                        continue  # It would be ended.
                    run.http(method, path, "key in path", headers=headers)
        for offered in (["chat", f"lmx-key.{key}"], [f"lmx-key.{key}"], [f"lmx-ticket.{key}", "c"]):
            for _, path in [way for way in run.ways if way[0] == "WS"]:
                run.socket(path, "key as protocol", [], headers={}, subprotocols=offered)
                run.socket(f"{path}?ticket={key}", "key as ticket", [], headers={})


def ask_models(run: Run) -> None:
    """Canary prompts to every surface and model, with every field of the matrix, and faults."""
    prompt = run.secrets.prompt
    for surface in failures.SURFACES:
        body = {"model": KINDS[surface.kind], **surface.body(prompt)}
        run.http("POST", surface.path, "good", json=body)
        for model in (*SCRIPTS, "missing"):
            for stream in (False, True):
                asked = {**body, "model": model, **({"stream": stream} if stream else {})}
                run.http("POST", surface.path, f"model {model[:9]}", json=asked)
        run.http(
            "POST", surface.path, "endless", json={**body, **surface.body("hopeless " + prompt)}
        )
    for one in SURFACES:
        least = {"model": KINDS[one.kind], **stained(one.least, prompt)}
        for row in one.rows:
            asked = {**least, **stained(row.probe, prompt)}
            run.http("POST", one.path, row.field, json=asked)
            first = row.field.split(".")[0]
            if first in NAMES:
                continue
            for wrong in (prompt, [prompt], {"type": prompt, "x": prompt}):
                run.http("POST", one.path, f"wrong {row.field}", json={**least, first: wrong})


def ask_wrongly(run: Run) -> None:
    """Bodies that are no bodies, on every route that takes one."""
    prompt, keys = run.secrets.prompt, [run.secrets.configured, run.secrets.stored]
    for method, path in run.ways:
        if method not in ("POST", "PUT", "PATCH", "DELETE"):
            continue
        for label, data in _wrong_bodies(prompt, keys):
            run.http(method, path, label, content=data)
        wrong = {**run.bearer, "content-encoding": "gzip", "content-type": "text/plain"}
        run.http(
            method,
            path,
            "other encoding",
            content=json.dumps(_said(prompt)).encode(),
            headers=wrong,
        )


def _said(prompt: str) -> dict[str, Any]:
    turn = {"role": "user", "content": prompt}
    return {"model": "chat-ok", "prompt": prompt, "messages": [turn]}


def _wrong_bodies(prompt: str, keys: list[str]) -> Iterator[tuple[str, bytes]]:
    said = _said(prompt)
    whole = json.dumps(said).encode()
    yield "cut off", whole[:-9]
    yield "followed", whole + prompt.encode()
    yield "text", prompt.encode()
    yield "a string", json.dumps(prompt).encode()
    yield "a list", json.dumps([prompt]).encode()
    yield "not UTF-8", whole[:40] + b"\xff\xfe" + prompt.encode("utf-16")
    yield "deep", b'{"a":' * 80 + json.dumps(prompt).encode() + b"}" * 80
    yield "too large", whole + b" " * BODY_LIMIT
    yield (
        "bad number",
        json.dumps({**said, "temperature": 1}).encode().replace(b": 1}", b": 1e999}"),
    )
    for name in ("no_such_field", "api_key", "authorization", "token", "password"):
        unknown = {"model": "chat-ok", name: f"{prompt} {' '.join(keys)}"}
        yield f"unknown {name}", json.dumps(unknown).encode()
    for text in (*keys, prompt):
        named: dict[str, Any] = {**said, text: 1}
        yield "named", json.dumps(named).encode()
        turn = {"role": "user", "content": "hi", text: 1}
        yield "named further in", json.dumps({"model": "chat-ok", "messages": [turn]}).encode()
        part = {"type": "text", "text": "hi", text: [{text: text}]}
        turn = {"role": "user", "content": [part]}
        body = {"model": "chat-ok", "messages": [turn], "input": [turn], "max_tokens": 2}
        yield "named further in", json.dumps(body).encode()
    for key in keys:
        held = {**said, "model": key, "name": key, "metadata": {key: key}, "user": key}
        yield "called", json.dumps(held).encode()
    yield "noted", json.dumps({"name": "bad name", "note": prompt}).encode()


def ask_sockets(run: Run) -> None:
    """Frames on every WebSocket, good and bad."""
    prompt, keys = run.secrets.prompt, " ".join(run.secrets[:2])
    chat = {"messages": [{"role": "user", "content": prompt}]}
    for model in ("chat-ok", "chat-raises", "chat-small", "missing"):
        chatting = json.dumps({"type": "chat.request", "request_id": "a", "model": model, **chat})
        run.socket("/v1/chat/stream", model, [chatting])
        made = {"type": "response.create", "model": model, "input": prompt}
        run.socket("/v1/responses", model, [json.dumps(made)])
    for path in [path for method, path in run.ways if method == "WS"]:
        for frame in (
            prompt,
            json.dumps(prompt),
            json.dumps({"type": prompt}),
            json.dumps({"type": "chat.request", "request_id": "b", "model": "chat-ok", "x": keys}),
            json.dumps({"type": "response.create", "model": "chat-ok", "input": [prompt, keys]}),
        ):
            run.socket(path, "bad frame", [frame])
        for key in run.secrets[:2]:
            kind = "chat.request" if path == "/v1/chat/stream" else "response.create"
            said = {"messages": [{"role": "user", "content": "hi"}], "input": "hi"}
            said.pop("input" if kind == "chat.request" else "messages")
            for named in (
                {"type": kind, "model": key, **said},
                {"type": kind, "model": "chat-ok", key: 1, **said},
                {"type": kind, "model": "chat-ok", "request_id": key, **said},
                {"type": key},
                {"type": "chat.cancel", "request_id": key},
                {"type": kind, "model": "chat-ok", "previous_response_id": key, **said},
            ):
                run.socket(path, "key in frame", [json.dumps(named)])


def ask_for_what_was_stored(run: Run) -> None:
    """A response that is kept, read, continued, cancelled and deleted."""
    body = {"model": "chat-ok", "input": run.secrets.prompt, "store": True}
    made = json.loads(run.http("POST", "/v1/responses", "stored", json=body).body)
    one = f"/v1/responses/{made['id']}"
    run.http("POST", "/v1/responses", "on", json={**body, "previous_response_id": made["id"]})
    for method, path in (
        ("GET", one),
        ("GET", f"{one}/input_items"),
        ("POST", f"{one}/cancel"),
    ):
        run.http(method, path, "stored")
    late = json.loads(
        run.http("POST", "/v1/responses", "later", json={**body, "background": True}).body
    )
    run.http("POST", f"/v1/responses/{late['id']}/cancel", "cancelled")
    run.http("DELETE", one, "deleted")
    for asked in (("GET", one), ("POST", f"{one}/cancel")):
        run.http(*asked, "gone")


def break_http(run: Run) -> None:
    """Heads that are too large, unfinished or no HTTP, with keys in them."""
    key = run.secrets.stored
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
    )
    filler = f"X-Filler: {run.secrets.configured * 3000}\r\n"
    run.raw("large head", (head + filler + "\r\n").encode())
    run.raw("many fields", (head + f"X-Api-Key: {key}\r\n" * 200 + "\r\n").encode())
    run.raw("no HTTP", f"GET /?key={key} HTTP/9.9\r\nX-Api-Key: {key}\r\n\r\n".encode())
    run.raw("no method", f"{run.secrets.prompt}\r\nX-Api-Key: {key}\r\n\r\n".encode())
    run.raw("bad field", (head + f"X-Api-Key {key}\r\nBad\x00: {key}\r\n\r\n").encode())
    run.raw("bad length", (head + f"Content-Length: {key}\r\n\r\n").encode())
    cut = f"{head}Content-Length: 9999\r\n\r\n{run.secrets.prompt}"
    with connected(run.server.url) as client:
        client.sendall(cut.encode())


def read_what_operators_see(run: Run) -> None:
    """Every document that operators read."""
    for method, path in run.ways:
        needed = rules.scope_of("http", method, re.sub(r"{[^}]+}", "none", path))
        if method == "GET" and needed in (Scope.ADMIN, Scope.METRICS):
            found = run.http(method, path, "operators")
            run.documents[path] = found.body
    assert len(run.documents) > 10
    keys = json.loads(run.documents["/admin/keys"])["data"]
    assert {key["name"] for key in keys} >= {"operator", "stored"}
    for path in ("/admin/usage", "/v1/usage"):
        for form in ("json", "csv"):
            run.documents[f"{path} {form}"] = run.http("GET", f"{path}?format={form}", form).body
    assert run.documents["/admin/usage csv"].count(b"\n") > 3


COMMANDS = (
    ("audit", "--csv"),
    ("audit", "--json"),
    ("audit",),
    ("audit", "verify"),
    ("keys", "list", "--all"),
    ("keys", "list", "--json"),
    ("quotas", "list"),
    ("usage",),
    ("usage", "--format", "csv"),
    ("usage", "--format", "json"),
)


def read_what_commands_tell(run: Run) -> None:
    """What operators read on the machine itself."""
    config = run.home / "config.toml"
    config.write_text(f'[[access.keys]]\nname = "operator"\nkey = "{run.secrets.configured}"\n')
    environment = {**os.environ, "LMX_HOME": str(run.home)}
    for words in COMMANDS:
        command = [sys.executable, "-m", "opta_lmx.cli.main", *words]
        told = subprocess.run(command, env=environment, capture_output=True, check=True)
        run.documents[f"opta-lmx {' '.join(words)}"] = told.stdout + told.stderr
    config.unlink()
    assert run.documents["opta-lmx audit --csv"].count(b"\n") > 1000
    assert run.documents["opta-lmx usage --format csv"].count(b"\n") > 3


def let_unknown_fields_pass(run: Run) -> None:
    """Where what is not known is let pass, and named in a header."""
    for surface in failures.SURFACES:
        for text in run.secrets[:2]:
            body = {"model": KINDS[surface.kind], **surface.body("hi"), text: 1}
            found = run.http("POST", surface.path, "let pass", json=body)
            assert "x-opta-ignored-fields" in found.headers, found
    chat = {"messages": [{"role": "user", "content": "hi"}], run.secrets.stored: 1}
    frame = {"type": "chat.request", "request_id": "a", "model": "chat-ok", **chat}
    run.socket("/v1/chat/stream", "let pass", [json.dumps(frame)])
