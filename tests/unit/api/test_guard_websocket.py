"""WebSockets at the guard: refused with a reply like any other, counted when they open."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from starlette.requests import HTTPConnection
from starlette.types import Message, Receive, Scope, Send

from opta_lmx.api.callers import principal_of
from opta_lmx.api.door import Door as Entrance
from opta_lmx.api.door import DoorRules
from opta_lmx.api.errors import Envelopes
from opta_lmx.api.guard import Guard
from opta_lmx.api.openai.errors import render
from opta_lmx.core.clock import SystemClock
from opta_lmx.core.errors import LmxError
from opta_lmx.core.principal import Principal
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.security.failures import AuthFailures
from opta_lmx.tenancy.keyring import Keyring

ACCEPT: Message = {"type": "websocket.accept"}
CLOSE: Message = {"type": "websocket.close", "code": 1000}
TEXT: Message = {"type": "websocket.send", "text": "hi"}
KEY = {"authorization": "Bearer abc"}


class Route(NamedTuple):
    """A matched route."""

    path: str = "/socket"


class Counting(NullTelemetry):
    """Keeps the requests counted, and how many messages had gone out by then."""

    def __init__(self, sent: list[Message]) -> None:
        self.sent = sent
        self.requests: list[tuple[str, str, int]] = []

    def count(self, name: str, value: float = 1, **labels: str) -> None:
        if name == "requests_total":
            self.requests.append((labels["route"], labels["code"], len(self.sent)))


class Changing(Keyring):
    """One key, which may be revoked."""

    def __init__(self) -> None:
        super().__init__([("abc", Principal())], None, SystemClock(), required=True)
        self.revoked = False

    def owner(self, shown: str) -> Principal | None:
        return None if self.revoked else super().owner(shown)


class Door:
    """A guard before an application that sends `plays`."""

    def __init__(self, *plays: Message, known: bool = True) -> None:
        self.sent: list[Message] = []
        self.telemetry = Counting(self.sent)
        self.reached = False
        self._plays = plays
        self._known = known
        clock = SystemClock()
        self.keys = Changing()
        entrance = Entrance(DoorRules(), self.keys, AuthFailures(clock, 20))
        self._guard = Guard(self._app, entrance, Envelopes(render), clock, self.telemetry)

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.reached = True
        if self._known:
            scope["route"] = Route()
        for message in self._plays:
            await send(message)

    def knock(
        self, *, extension: bool = True, subprotocols: Sequence[str] = (), **headers: str
    ) -> list[Message]:
        """Open a socket; everything that is sent."""
        raw = [(name.encode(), text.encode()) for name, text in headers.items()]
        scope: dict[str, Any] = {"type": "websocket", "path": "/socket", "headers": raw}
        scope["subprotocols"] = list(subprotocols)
        self.scope = scope
        scope["extensions"] = {"websocket.http.response": {}} if extension else {}

        async def receive() -> Message:
            return {"type": "websocket.connect"}

        async def send(message: Message) -> None:
            self.sent.append(message)

        asyncio.run(self._guard(scope, receive, send))
        return self.sent


def reply(sent: list[Message]) -> tuple[int, str]:
    """Status and code of an HTTP reply to a handshake."""
    start, body = sent
    assert start["type"] == "websocket.http.response.start"
    assert body["type"] == "websocket.http.response.body"
    assert b"x-request-id" in dict(start["headers"])
    return start["status"], json.loads(body["body"])["error"]["code"]


def test_an_opened_socket_is_counted_at_once_and_once() -> None:
    door = Door(ACCEPT, TEXT, CLOSE)
    sent = door.knock(**KEY)
    assert [message["type"] for message in sent] == [
        "websocket.accept",
        "websocket.send",
        "websocket.close",
    ]
    assert b"x-request-id" in dict(sent[0]["headers"])
    assert door.telemetry.requests == [("/socket", "101", 1)]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, (401, "invalid_api_key")),
        ({**KEY, "origin": "http://evil.example"}, (403, "origin_not_allowed")),
        ({**KEY, "host": "evil.example"}, (403, "host_not_allowed")),
    ],
)
def test_a_stranger_gets_a_reply_and_never_reaches_a_route(
    headers: dict[str, str], expected: tuple[int, str]
) -> None:
    door = Door(ACCEPT)
    assert reply(door.knock(**headers)) == expected
    assert not door.reached
    assert door.telemetry.requests == [("unmatched", str(expected[0]), 2)]


def test_a_path_without_a_route_is_not_found() -> None:
    door = Door(CLOSE, known=False)
    assert reply(door.knock(**KEY)) == (404, "unknown_path")
    assert door.telemetry.requests == [("unmatched", "404", 2)]


def test_a_route_that_does_not_accept_forbids() -> None:
    assert reply(Door(CLOSE).knock(**KEY)) == (403, "forbidden")


@pytest.mark.parametrize("headers", [{}, KEY])
def test_a_server_without_replies_closes(headers: dict[str, str]) -> None:
    sent = Door(CLOSE).knock(extension=False, **headers)
    assert [message["type"] for message in sent] == ["websocket.close"]


OFFERED = [
    (["chat", "lmx-key.abc"], "chat"),
    (["lmx-key.abc", "chat", "other"], "chat"),
    (["chat"], None),
]


@pytest.mark.parametrize(("offered", "answered"), OFFERED)
def test_a_key_among_the_protocols_opens_and_is_not_what_is_answered(
    offered: list[str], answered: str | None
) -> None:
    door = Door(ACCEPT)
    headers = {} if answered else KEY
    (opened,) = door.knock(subprotocols=offered, **headers)
    assert opened["type"] == "websocket.accept"
    assert opened.get("subprotocol") == answered


@pytest.mark.parametrize(
    ("offered", "expected"),
    [
        (["lmx-key.abc"], (400, "invalid_header")),
        (["chat", "lmx-key.abd"], (401, "invalid_api_key")),
        (["chat", "LMX-KEY.abc"], (401, "invalid_api_key")),
        (["chat", "abc"], (401, "invalid_api_key")),
    ],
)
def test_what_is_no_key_beside_a_protocol_does_not_open(
    offered: list[str], expected: tuple[int, str]
) -> None:
    door = Door(ACCEPT)
    assert reply(door.knock(subprotocols=offered)) == expected
    assert not door.reached


def test_the_key_of_an_open_socket_is_asked_for_again_at_each_request() -> None:
    door = Door(ACCEPT)
    door.knock(**KEY)
    connection = HTTPConnection(door.scope)
    assert principal_of(connection) == Principal()
    door.keys.revoked = True
    with pytest.raises(LmxError) as refused:
        principal_of(connection)
    assert refused.value.code == "invalid_api_key"
