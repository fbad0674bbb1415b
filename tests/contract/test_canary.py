"""A key and a prompt that may turn up nowhere, through every route there is, right and wrong.

The server is a process of its own with its log at `debug`. Routes are those that its own document
names, and the WebSockets of `api.rules`: one without a request here fails. Then everything that it
wrote or answers operators is searched.
"""

import base64
import contextlib
import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from opta_lmx.api import rules
from opta_lmx.core.principal import Scope
from tests.contract import failures
from tests.contract.matrix.surfaces import SURFACES
from tests.support.canaries import Canary, drawn, sightings, stained
from tests.support.process import ServerProcess
from tests.support.rawhttp import connected
from tests.support.sim_program import sim_process
from tests.support.websocket import WsClient

pytestmark = pytest.mark.timeout(300)

BODY_LIMIT = 64 * 1024
STORED_TABLES = frozenset({"responses", "response_items"})
"""Where prompts are kept on purpose: what callers have stored, and ask for again."""
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
        return [Canary(name, text[-24:]) for name, text in shown]

    @property
    def words(self) -> list[Canary]:
        return [Canary("a prompt", re.findall("[0-9a-f]{24}", self.prompt)[0])]


class Run:
    """Everything that is asked, and all that was answered."""

    def __init__(self, server: ServerProcess, secrets: Secrets, home: Path, log: Path) -> None:
        self.server = server
        self.home = home
        self.log = log
        self.secrets = secrets
        self.answers: list[Answer] = []
        self.asked: set[tuple[str, str]] = set()
        self.documents: dict[str, bytes] = {}
        self.ways = self._ways()

    def _ways(self) -> list[tuple[str, str]]:
        url, shown = f"{self.server.url}/openapi.json", self.bearer
        told = httpx.get(url, headers=shown, timeout=30).raise_for_status().json()["paths"]
        http = [
            (method.upper(), path)
            for path, methods in told.items()
            for method in methods
            if method in ("get", "post", "put", "patch", "delete", "head")
        ]
        sockets = [("WS", row.path) for row in rules.TABLE if "WS" in row.methods.split()]
        return sorted([*http, *sockets])

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
        for query in (f"?api_key={key}", f"?key={secrets.stored}&token={secrets.wrong}"):
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


# --- one run of all of it


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("canary")
    home, log = folder / "home", folder / "output"
    configured = f"sk-configured-{drawn()}"
    prompt = f'Zoë said "{drawn()}" \\ and\nmore'
    sections: dict[str, Any] = {
        "logging": {"level": "debug", "format": "json"},
        "access": {"keys": [{"name": "operator", "key": configured, "scopes": [*Scope]}]},
        "security": {"auth_failures_per_minute": 1000},
        "server": {"body_limit_bytes": BODY_LIMIT},
        "models": {"downloads_enabled": False},
        "engine": {"restart_backoff_s": 0.1},
        "audit": {"reads": True},
    }
    with sim_process(home, SCRIPTS, log=log, **sections) as server:
        made: list[str] = []
        shown = {"Authorization": f"Bearer {configured}"}
        for name in ("stored", "brief"):
            body = {"name": name, "scopes": [*Scope]}
            reply = httpx.post(f"{server.url}/admin/keys", json=body, headers=shown)
            made.append(reply.raise_for_status().json()["secret"])
        ended = httpx.delete(f"{server.url}/admin/keys/{made[1]}", headers=shown)
        assert ended.status_code == 200
        secrets = Secrets(configured, made[0], f"sk-wrong-{drawn()}", made[1], prompt)
        found = Run(server, secrets, home, log)
        ask_for_what_was_stored(found)
        ask_models(found)
        ask_wrongly(found)
        ask_sockets(found)
        show_keys_everywhere(found)
        show_keys_in_paths_and_protocols(found)
        break_http(found)
        read_what_operators_see(found)
    return found


def test_every_route_was_asked(run: Run) -> None:
    assert len(run.ways) > 60
    assert [way for way in run.ways if way not in run.asked] == []
    statuses = {answer.status for answer in run.answers}
    assert statuses >= {101, 200, 400, 401, 403, 404, 405, 413, 431, 500}


def test_no_answer_tells_a_key(run: Run) -> None:
    seen = [
        f"{answer.label} {answer.status}: {found}"
        for answer in run.answers
        for found in sightings(answer.headers.encode() + answer.body, run.secrets.keys)
    ]
    assert not seen, "\n".join(sorted(seen))


def test_no_error_tells_a_prompt(run: Run) -> None:
    wrong = [one for one in run.answers if one.status >= 400 or one.label.startswith("WS")]
    assert len(wrong) > 1000
    seen = [
        f"{answer.label} {answer.status}: {found}"
        for answer in wrong
        for found in sightings(answer.headers.encode() + answer.body, run.secrets.words)
    ]
    assert not seen, "\n".join(sorted(seen))


def test_no_document_for_operators_tells_either(run: Run) -> None:
    hidden = [*run.secrets.keys, *run.secrets.words]
    seen = [
        f"{path}: {one}" for path, body in run.documents.items() for one in sightings(body, hidden)
    ]
    assert not seen, "\n".join(sorted(seen))


def test_the_log_tells_neither(run: Run) -> None:
    text = run.log.read_bytes()
    assert text.count(b'"request"') > 1000, "the log is at its most talkative"
    hidden = [*run.secrets.keys, *run.secrets.words]
    seen = [found for line in text.splitlines() for found in sightings(line, hidden)]
    assert not seen, "\n".join(sorted(seen))


def test_no_file_of_the_home_tells_either_but_stored_responses(run: Run) -> None:
    home = run.home
    files = [path for path in home.rglob("*") if path.is_file()]
    assert any(path.parent.name == "logs" for path in files)
    seen: list[str] = []
    for path in files:
        database = path.name.startswith("lmx.db")
        hidden = run.secrets.keys if database else [*run.secrets.keys, *run.secrets.words]
        seen += [f"{path.relative_to(home)}: {one}" for one in sightings(path.read_bytes(), hidden)]
    assert not seen, "\n".join(sorted(seen))


def test_only_stored_responses_hold_prompts_in_the_database(run: Run) -> None:
    home = run.home
    holding: set[str] = set()
    with contextlib.closing(sqlite3.connect(home / "lmx.db")) as database:
        names = "SELECT name FROM sqlite_master WHERE type = 'table'"
        tables = [row[0] for row in database.execute(names)]
        assert {"audit_rows", "api_keys"} <= set(tables)
        for table in tables:
            for row in database.execute(f'SELECT * FROM "{table}"'):
                for cell in row:
                    data = cell if isinstance(cell, bytes) else str(cell).encode()
                    if any(sightings(data, run.secrets.words)):
                        holding.add(table)
    # That they are found there shows that the search finds.
    assert holding
    assert holding <= STORED_TABLES
