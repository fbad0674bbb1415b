"""A key that stands where none should is not told again: in names of fields, frames, streams."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.failures import SURFACES, Surface
from tests.support.server import LiveServer, sim_server
from tests.support.websocket import MESSAGES, WsClient

OPERATOR = "sk-operator-0123456789abcdef"
LONG = "sk-long-" + "0123456789abcdef" * 8
KEYS: list[dict[str, Any]] = [
    {"name": "operator", "key": OPERATOR, "scopes": ["admin", "inference"]},
    {"name": "long", "key": LONG},
]
# A model that is called as a key is: what fails while it streams names it.
SCRIPTS: dict[str, dict[str, Any]] = {
    "chat-ok": {"reply": "one two"},
    "embedding-ok": {"kind": "embedding"},
    "rerank-ok": {"kind": "rerank"},
    OPERATOR: {"reply": "one two three", "die_at_step": 1},
}
SHOWN = {"Authorization": f"Bearer {OPERATOR}"}


class Place:
    """A server, and a key that it has made."""

    def __init__(self, server: LiveServer) -> None:
        self.url = server.url
        body = {"name": "stored", "scopes": ["inference"]}
        made = httpx.post(f"{self.url}/admin/keys", json=body, headers=SHOWN, timeout=30)
        self.keys = (OPERATOR, LONG, made.raise_for_status().json()["secret"])

    def told(self, text: str, *sought: str) -> str:
        """The text, in which none of the keys is, nor the beginning of one."""
        for key in sought or self.keys:
            assert key[:40] not in text, text
        return text


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("home")
    engine = {"max_restarts": 50, "restart_backoff_s": 0.1}
    with sim_server(home, SCRIPTS, access={"keys": KEYS}, engine=engine) as live:
        yield Place(live)


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.path)
def test_a_key_as_the_name_of_a_field_is_masked(place: Place, surface: Surface) -> None:
    for key in place.keys:
        body = {**surface.request("ok", "hi", stream=False), key: 1}
        reply = httpx.post(place.url + surface.path, json=body, headers=SHOWN, timeout=30)
        assert reply.status_code == 400
        assert "***" in place.told(reply.text)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat"])
def test_a_key_as_the_name_of_a_field_further_in_is_masked(place: Place, path: str) -> None:
    for key in place.keys:
        turn = {"role": "user", "content": "hi", key: 1}
        body = {"model": "chat-ok", "max_tokens": 3, "messages": [turn]}
        if path == "/api/chat":
            del body["max_tokens"]
        reply = httpx.post(place.url + path, json=body, headers=SHOWN, timeout=30)
        assert reply.status_code == 400
        assert "messages.0" in place.told(reply.text)


@pytest.mark.parametrize("path", ["/admin/audit", "/v1/usage", "/admin/usage"])
def test_a_key_as_the_name_of_a_parameter_is_masked(place: Place, path: str) -> None:
    for key in place.keys:
        reply = httpx.get(f"{place.url}{path}?{key}=1", headers=SHOWN, timeout=30)
        assert reply.status_code in (400, 404)
        place.told(reply.text)


@pytest.mark.parametrize("path", ["/v1/chat/stream", "/v1/responses"])
def test_frames_tell_no_key(place: Place, path: str) -> None:
    kind = "chat.request" if path == "/v1/chat/stream" else "response.create"
    said: dict[str, Any] = {"messages": MESSAGES} if path == "/v1/chat/stream" else {"input": "hi"}
    for key in place.keys[::2]:
        for frame in (
            {"type": kind, "model": f"no-{key}", **said},
            {"type": kind, "model": "chat-ok", key: 1, **said},
            {"type": key},
            {"type": kind, "model": "chat-ok", "request_id": key, **said},
        ):
            with WsClient(place.url, path, headers=SHOWN) as client:
                client.connection.send(json.dumps(frame))
                heard = place.told(str(client.connection.recv(20)))
                assert json.loads(heard)["type"] in ("chat.error", "error")


STREAMS = [one for one in SURFACES if one.stream_error and one.generates]


@pytest.mark.parametrize("surface", STREAMS, ids=lambda surface: surface.path)
def test_an_error_within_a_stream_is_masked(place: Place, surface: Surface) -> None:
    body = {**surface.request("ok", "hi", stream=True), "model": OPERATOR}
    reply = httpx.post(place.url + surface.path, json=body, headers=SHOWN, timeout=30)
    assert surface.stream_error is not None
    told = surface.stream_error(reply.text)
    assert told is not None
    assert "***" in place.told(told.message)


def test_fields_that_are_let_pass_are_named_without_keys(tmp_path: Path) -> None:
    lenient = {"unknown_fields": "warn"}
    with sim_server(tmp_path, SCRIPTS, access={"keys": KEYS}, protocol=lenient) as live:
        place = Place(live)
        for key in place.keys:
            for body in (
                {"model": "chat-ok", "messages": MESSAGES, key: 1},
                {"model": "chat-ok", "messages": [{**MESSAGES[0], key: 1}]},
            ):
                url = f"{place.url}/v1/chat/completions"
                reply = httpx.post(url, json=body, headers=SHOWN, timeout=30)
                assert reply.status_code == 200
                assert "***" in place.told(reply.headers["x-opta-ignored-fields"])
            with WsClient(place.url, headers=SHOWN) as client:
                client.ask("a", "chat-ok", **{key: 1})
                accepted = json.dumps(client.hear())
                assert "ignored_fields" in place.told(accepted)


@pytest.mark.parametrize("param", ["name", "tenant", "note"])
def test_no_key_is_called_as_a_key_is(place: Place, param: str) -> None:
    url = f"{place.url}/admin/keys"
    for key in (OPERATOR, place.keys[2], f"x.{OPERATOR}"):
        body = {"name": "named", param: key, "scopes": ["inference"]}
        reply = httpx.post(url, json=body, headers=SHOWN, timeout=30)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
        place.told(reply.text)
    place.told(httpx.get(url, headers=SHOWN, timeout=30).text)
