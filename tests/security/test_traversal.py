"""Names that climb out of where names lead: in every path parameter and every text of a body."""

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from opta_lmx.models.store import ModelStore
from tests.security import live
from tests.support.server import LiveServer, sim_server
from tests.support.weights import small_gguf

KEY = "sk-climbing"
SECRET = "canary-beside-the-store"
CLIMBING = (
    "../outside",
    "../../outside/m.gguf",
    "..\\outside",
    "/etc/passwd",
    "./../outside",
    "good/../../outside",
    "good/../../../canary.txt",
    "....//outside",
    ".tmp/x",
    ".partial/x",
    "..",
    ".",
    "~",
    "outside\0.gguf",
    "outside\n",
    "file:///etc/passwd",
    "C:\\Windows\\win.ini",
    "\u2025/outside",
    "\uff0e\uff0e/outside",
    "x" * 5000,
    "%2e%2e/outside",
)
RAW = (
    "../outside",
    "..%2foutside",
    "%2e%2e%2foutside",
    "..%5coutside",
    "..%255coutside",
    "%252e%252e%252foutside",
    "..;/outside",
    "%c0%ae%c0%ae/outside",
    "%ff%fe",
    "outside%00",
    "outside%0d%0aX-Injected:%201",
    "good%2f..%2f..%2f..%2fcanary.txt",
    "/../../../canary.txt",
    "//outside",
    "x" * 5000,
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a model, and beside it what a climbing name would reach."""
    home = tmp_path_factory.mktemp("home")
    for place in (home / "outside", home / "models" / ".tmp"):
        place.mkdir(parents=True)
    (home / "canary.txt").write_text(SECRET)
    (home / "outside" / "m.gguf").write_bytes(small_gguf())
    (home / "outside" / "canary.txt").write_text(SECRET)
    store = ModelStore(home / "models")
    store.sweep()
    store.add(home / "outside" / "m.gguf", "good")
    return home


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[LiveServer]:
    sections = {"models": {"downloads_enabled": False}, "server": {"api_keys": [KEY]}}
    with sim_server(home, live.SCRIPTS, **sections) as running:
        yield running


def everything(home: Path) -> dict[str, bytes]:
    """What lies outside of the store and was not made by the server."""
    found = [home / "canary.txt", *(home / "outside").iterdir()]
    return {path.name: path.read_bytes() for path in found}


def ask(server: LiveServer, method: str, target: str, body: bytes = b"") -> tuple[int, bytes]:
    """Send a request whose target is left as it is; status and all that came back."""
    parts = urlsplit(server.url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    try:
        connection.putrequest(method, target, skip_accept_encoding=True)
        connection.putheader("Authorization", f"Bearer {KEY}")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        reply = connection.getresponse()
        headers = str(reply.headers).encode()
        return reply.status, headers + reply.read()
    finally:
        connection.close()


def test_paths_that_climb_lead_nowhere(server: LiveServer, home: Path) -> None:
    before = everything(home)
    named = [route for route in live.routes(server) if "{" in route.path]
    assert len(named) > 15
    values = [*RAW, *(quote(text, safe="") for text in CLIMBING)]
    for route in named:
        for value in values:
            status, answer = ask(server, route.method, route.filled(value))
            # A path that climbs out of a route may be another's, which then asks for a body.
            assert status in (400, 403, 404, 405, 409, 411, 413), (route, value, status, answer)
            assert SECRET.encode() not in answer, (route, value)
            assert b"\nX-Injected" not in answer, (route, value)
            assert everything(home) == before, (route, value)


def test_texts_that_climb_lead_nowhere(server: LiveServer, home: Path) -> None:
    before = everything(home)
    fields = 0
    for route, operation in live.operations(
        live.document(server, {"Authorization": f"Bearer {KEY}"})
    ):
        schema = live.body_schema(operation) or {}
        names = {path for path, _ in live.leaves(schema, ("string",)) if len(path) == 1}
        for (name,) in sorted(names):
            fields += 1
            for value in CLIMBING:
                body = {**live.least_body(route.path, schema), name: value}
                sent = json.dumps(body).encode()
                status, answer = ask(server, route.method, route.filled("none"), sent)
                assert status < 500, (route, name, value, answer)
                assert SECRET.encode() not in answer, (route, name, value)
            assert everything(home) == before, (route, name)
    assert fields > 50


def test_a_name_that_does_not_climb_is_found(server: LiveServer) -> None:
    status, answer = ask(server, "GET", "/v1/models/good")
    assert status == 200, answer
