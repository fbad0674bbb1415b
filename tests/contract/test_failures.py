"""One table of failures, the same on every surface: refused before headers, typed after."""

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.contract.failures import CHAT_SCRIPTS, SURFACES, Surface
from tests.support.server import LiveServer, sim_server
from tests.support.waiting import wait_until

VECTORS: dict[str, dict[str, Any]] = {
    "ok": {},
    "small": {"context": 64},
    "held": {"encode_ms": 400},
    "dies-first": {"die_at_batch": 1},
    "cold": {"load_ms": 8000},
}
SCRIPTS = {
    **{f"chat-{name}": script for name, script in CHAT_SCRIPTS.items()},
    **{
        f"{kind}-{name}": {**script, "kind": kind}
        for name, script in VECTORS.items()
        for kind in ("embedding", "rerank")
    },
}
STREAMED = [surface for surface in SURFACES if surface.stream_error]
EACH = pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.path)
WAYS = pytest.mark.parametrize(
    ("surface", "stream"),
    [
        pytest.param(surface, stream, id=f"{surface.path}-{'stream' if stream else 'plain'}")
        for surface in SURFACES
        for stream in ((False, True) if surface.stream_error else (False,))
    ],
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    home, engine = tmp_path_factory.mktemp("home"), {"restart_backoff_s": 0.05}
    with sim_server(home, SCRIPTS, slots=1, max_waiting=0, engine=engine) as live:
        yield live


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Nobody may wait for a model to load."""
    queue = {"load_wait_s": 0}
    with sim_server(tmp_path_factory.mktemp("impatient"), SCRIPTS, queue=queue) as live:
        yield live


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    keys = {"api_keys": ["secret-key"]}
    with sim_server(tmp_path_factory.mktemp("locked"), SCRIPTS, server=keys) as live:
        yield live


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=30) as client:
        yield client


def ask(
    http: httpx.Client, server: LiveServer, surface: Surface, model: str, *, stream: bool = False
) -> httpx.Response:
    text = "x" * 200 if model == "small" else "hi"
    return http.post(server.url + surface.path, json=surface.request(model, text, stream=stream))


def assert_waitable(surface: Surface, reply: httpx.Response) -> None:
    assert 1 <= int(reply.headers["retry-after"]) <= 60
    assert surface.error(reply.json()).message
    assert reply.headers["content-type"] == "application/json"


def crashing(
    http: httpx.Client, server: LiveServer, surface: Surface, model: str, *, stream: bool = False
) -> httpx.Response:
    """Ask a model that crashes; loaded anew, and let in again should it have crashed often."""
    name = f"{surface.kind}-{model}"
    http.post(f"{server.url}/admin/models/unload", json={"model": name})
    assert http.post(f"{server.url}/admin/models/{name}/reset").status_code == 200
    loaded = http.post(f"{server.url}/admin/models/load", json={"model": name})
    assert loaded.status_code == 200, loaded.text
    return ask(http, server, surface, model, stream=stream)


def hold(url: str, surface: Surface, over: threading.Event) -> None:
    """Keep a slot, or a place, of a model until `over`; routes of one kind share its models."""
    way = next(one for one in SURFACES if one.kind == surface.kind)
    body = way.request("held", "hi", stream=True)
    while not over.is_set():
        with httpx.stream("POST", url + way.path, json=body, timeout=30) as running:
            for _ in running.iter_raw():
                if over.is_set():
                    return


@WAYS
def test_a_full_line_is_a_429_before_anything_is_sent(
    http: httpx.Client, server: LiveServer, surface: Surface, stream: bool
) -> None:
    model, over = f"{surface.kind}-held", threading.Event()
    # One runs, and one has the place that everybody has.
    holders = [threading.Thread(target=hold, args=(server.url, surface, over)) for _ in range(2)]
    try:
        for holder, what in zip(holders, ("running", "waiting"), strict=True):
            holder.start()
            wait_until(lambda what=what: server.status(model).get(what) == 1)
        reply = ask(http, server, surface, "held", stream=stream)
    finally:
        over.set()
        for holder in holders:
            holder.join(20)
    assert reply.status_code == 429
    assert_waitable(surface, reply)
    wait_until(lambda: server.status(model)["running"] == 0)


@WAYS
def test_a_model_that_loads_too_long_is_unavailable_at_once(
    http: httpx.Client, impatient: LiveServer, surface: Surface, stream: bool
) -> None:
    reply = ask(http, impatient, surface, "cold", stream=stream)
    assert reply.status_code == surface.unavailable
    assert_waitable(surface, reply)


@pytest.mark.parametrize(
    "surface", [one for one in SURFACES if one.generates], ids=lambda surface: surface.path
)
def test_a_crash_before_the_first_token_keeps_its_status(
    http: httpx.Client, server: LiveServer, surface: Surface
) -> None:
    reply = crashing(http, server, surface, "dies-first")
    assert reply.status_code == 500
    assert "stopped" in surface.error(reply.json()).message


@pytest.mark.parametrize("surface", STREAMED, ids=lambda surface: surface.path)
@pytest.mark.parametrize("model", ["dies-first", "dies-later"])
def test_a_crash_in_a_stream_is_an_error_its_client_retries(
    http: httpx.Client, server: LiveServer, surface: Surface, model: str
) -> None:
    reply = crashing(http, server, surface, model, stream=True)
    if reply.status_code == 200:
        assert surface.stream_error is not None
        told = surface.stream_error(reply.text)
        assert told is not None, reply.text
        assert surface.retried(told), told
        assert '"stop"' not in reply.text.rpartition("rror")[2]
    else:
        assert (model, reply.status_code) == ("dies-first", 500)


@WAYS
def test_an_overflow_has_the_words_its_client_knows(
    http: httpx.Client, server: LiveServer, surface: Surface, stream: bool
) -> None:
    reply = ask(http, server, surface, "small", stream=stream)
    if not surface.overflow:
        assert reply.status_code == 200, reply.text
        return
    assert reply.status_code == 400
    assert surface.overflow in surface.error(reply.json()).message
    assert "64" in surface.error(reply.json()).message


@WAYS
def test_an_unknown_field_is_named(
    http: httpx.Client, server: LiveServer, surface: Surface, stream: bool
) -> None:
    body = {**surface.request("ok", "hi", stream=stream), "max_tokenz": 5}
    reply = http.post(server.url + surface.path, json=body)
    assert reply.status_code == 400
    assert "max_tokenz" in surface.error(reply.json()).message


@WAYS
def test_an_unknown_model_is_a_404(
    http: httpx.Client, server: LiveServer, surface: Surface, stream: bool
) -> None:
    reply = ask(http, server, surface, "nobody", stream=stream)
    assert reply.status_code == 404
    assert "nobody" in surface.error(reply.json()).message


@WAYS
def test_without_the_key_nothing_answers(
    http: httpx.Client, locked: LiveServer, surface: Surface, stream: bool
) -> None:
    reply = ask(http, locked, surface, "ok", stream=stream)
    assert reply.status_code == 401
    assert "key" in surface.error(reply.json()).message


@EACH
def test_each_surface_answers_when_nothing_fails(
    http: httpx.Client, server: LiveServer, surface: Surface
) -> None:
    reply = ask(http, server, surface, "ok")
    assert reply.status_code == 200, reply.text


def test_every_inference_route_is_in_the_table(server: LiveServer, http: httpx.Client) -> None:
    """A model is run for a client where the document says that its line can be full: 429."""
    paths = http.get(f"{server.url}/openapi.json").json()["paths"]
    posts = {
        path: methods["post"]["responses"] for path, methods in paths.items() if "post" in methods
    }
    full = {path: answers for path, answers in posts.items() if "429" in answers}
    # Of downloads and of tickets, too, only so many go at once.
    bounded = {"/api/v1/models/download", "/v1/ws/tickets"}
    inference = {
        path: one
        for path, one in full.items()
        if not path.startswith("/admin/") and path not in bounded
    }
    assert inference.keys() == {surface.path for surface in SURFACES}
    streams = {"text/event-stream", "application/x-ndjson"}
    streaming = {
        path for path, answers in inference.items() if streams & answers["200"]["content"].keys()
    }
    assert streaming == {surface.path for surface in STREAMED}
