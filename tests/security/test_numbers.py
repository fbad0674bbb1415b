"""Every number a client may send: no bool, no NaN, no infinity, nothing senseless, nothing huge.

The fields are those of the live OpenAPI document, so a new one is held to this when it appears.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.security import live
from tests.support.server import LiveServer, sim_server
from tests.support.websocket import WsClient

# With a key from the start: the first one that a request makes would shut all others out.
KEY = "sk-numbers"
SHOWN = {"Authorization": f"Bearer {KEY}"}
PLACEHOLDER = "number-goes-here"
NO_NUMBERS = ("NaN", "Infinity", "-Infinity", "1e309", "-1e309")
HUGE = 10**30
SIGNED = {
    "frequency_penalty",
    "keep_alive",
    "logit_bias",
    "num_keep",
    "num_predict",
    "presence_penalty",
    "repeat_last_n",
    "seed",
    "top_k",
}
"""Fields in which a number below zero means something: a sign, "all of it", "without end"."""
ENDLESS = {"keep_alive"}
"""Fields that take any number: it is a time, and a long one is for ever."""
CHECKED_LATER = {"input", "temperature"}
"""Fields whose bounds are not in their schema."""
AROUND: dict[str, dict[str, Any]] = {"thinking": {"type": "enabled"}}
"""What must stand beside a field so that it is read: the first reading of a schema lacks it."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    sections = {"models": {"downloads_enabled": False}, "server": {"api_keys": [KEY]}}
    with sim_server(tmp_path_factory.mktemp("home"), live.SCRIPTS, **sections) as running:
        yield running


@pytest.fixture(scope="module")
def http(server: LiveServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers=SHOWN, timeout=30) as client:
        yield client


class Field:
    """One numeric field of one route's body."""

    def __init__(self, route: live.Route, whole: dict[str, Any], path: live.Path) -> None:
        self.route = route
        self.whole = whole
        self.path = path
        self.bounds: list[dict[str, Any]] = []

    @property
    def name(self) -> str:
        """The innermost name on the way."""
        return next(part for part in reversed(self.path) if isinstance(part, str) and part != "5")

    @property
    def is_integer(self) -> bool:
        return all(one["type"] == "integer" for one in self.bounds)

    @property
    def takes_negatives(self) -> bool:
        """Whether any reading of the field has no bound at or above zero."""
        lowest = [one.get("minimum", one.get("exclusiveMinimum", -1)) for one in self.bounds]
        return min(lowest) < 0

    def body(self, number: str) -> bytes:
        """A body with a number, as it is written, in the field."""
        put = live.with_value(self.whole, self.path, PLACEHOLDER)
        base = live.least_body(self.route.path, self.whole)
        top = str(self.path[0])
        if len(self.path) > 1 and top in AROUND:
            put[top] |= AROUND[top]
        text = json.dumps({**base, top: put[top]})
        return text.replace(f'"{PLACEHOLDER}"', number).encode()

    def __repr__(self) -> str:
        return f"{self.route.path} {'.'.join(map(str, self.path))}"


@pytest.fixture(scope="module")
def fields(server: LiveServer) -> list[Field]:
    found: dict[tuple[live.Route, live.Path], Field] = {}
    for route, operation in live.operations(live.document(server, SHOWN)):
        schema = live.body_schema(operation)
        for path, one in live.leaves(schema or {}, ("integer", "number")):
            if path and schema is not None:
                field = found.setdefault((route, path), Field(route, schema, path))
                field.bounds.append(one)
    assert len(found) > 100
    return list(found.values())


def send(http: httpx.Client, field: Field, number: str) -> httpx.Response:
    path = field.route.asked
    headers = {"Content-Type": "application/json"}
    return http.request(field.route.method, path, content=field.body(number), headers=headers)


def held(http: httpx.Client, fields: list[Field], number: str, *, named: bool = True) -> None:
    """Each field refuses the number, with a 400 that names it."""
    wrong = []
    for field in fields:
        reply = send(http, field, number)
        if reply.status_code != 400 or (named and field.name not in reply.text):
            wrong.append((field, reply.status_code, reply.text[:200]))
    assert wrong == []


@pytest.mark.parametrize("number", NO_NUMBERS)
def test_what_is_no_number_is_refused(http: httpx.Client, fields: list[Field], number: str) -> None:
    held(http, fields, number, named=False)


@pytest.mark.parametrize("number", ["true", "false", '"1"', "[1]", '{"a": 1}'])
def test_another_type_is_refused(http: httpx.Client, fields: list[Field], number: str) -> None:
    # Some fields take another type, too: what they say of it is their own tests' affair.
    plain = [field for field in fields if only_numbers(field)]
    assert len(plain) > 80
    held(http, plain, number)


def only_numbers(field: Field) -> bool:
    """Whether a field takes numbers and null only."""
    others = {"string", "boolean", "array", "object"}
    return field.path not in {path for path, _ in live.leaves(field.whole, others)}


@pytest.mark.parametrize("number", ["-1", str(-(2**31)), str(-(2**63)), "-1e300", str(-HUGE)])
def test_negatives_are_refused_where_they_mean_nothing(
    http: httpx.Client, fields: list[Field], number: str
) -> None:
    senseless = [field for field in fields if field.name not in SIGNED]
    assert len(senseless) > 60
    held(http, senseless, number)


def test_which_fields_take_negatives_is_known(fields: list[Field]) -> None:
    found = {field.name for field in fields if field.takes_negatives}
    assert found == SIGNED | CHECKED_LATER


@pytest.mark.parametrize("number", [str(HUGE), str(2**64), "1e300"])
def test_huge_numbers_are_refused(http: httpx.Client, fields: list[Field], number: str) -> None:
    held(http, [field for field in fields if field.name not in ENDLESS], number)
    for field in fields:
        assert send(http, field, number).status_code < 500, field


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_many_answers_are_refused_before_any_is_begun(tmp_path: Path, path: str) -> None:
    body = {"model": "chat", "prompt": "x"} if path == "/v1/completions" else None
    body = body or {"model": "chat", "messages": [{"role": "user", "content": "x"}]}
    with sim_server(tmp_path, live.SCRIPTS) as server:
        for count in (server.settings.protocol.max_choices + 1, 1_000_000, 2**31 - 1):
            reply = httpx.post(server.url + path, json={**body, "n": count}, timeout=30)
            assert reply.status_code == 400
            assert reply.json()["error"]["param"] == "n"
        assert server.resolver.loads == []


def test_a_long_answer_is_bounded_by_the_window(server: LiveServer, http: httpx.Client) -> None:
    body = {"model": "chat", "messages": [{"role": "user", "content": "x"}]}
    reply = http.post("/v1/chat/completions", json={**body, "max_tokens": 2**31 - 1})
    assert reply.status_code in (200, 400)
    assert server.status("chat").get("running", 0) == 0


@pytest.mark.parametrize("number", ["-1", "true", "NaN", "1e309", str(HUGE)])
def test_frames_are_held_to_the_same(server: LiveServer, number: str) -> None:
    with WsClient(server.url, headers=SHOWN) as client:
        frame = {"type": "chat.request", "request_id": "a", "model": "chat", "messages": []}
        text = json.dumps({**frame, "n": PLACEHOLDER}).replace(f'"{PLACEHOLDER}"', number)
        client.connection.send(text)
        error = client.hear()
        assert error["type"] == "chat.error"
        assert error["error"]["code"] != "internal_error"
        client.say(type="ping")
        assert client.hear()["type"] == "pong"


def test_numbers_in_addresses_are_held_to_it_too(server: LiveServer, http: httpx.Client) -> None:
    asked = 0
    for route, operation in live.operations(live.document(server, SHOWN)):
        for parameter in operation.get("parameters", ()):
            kinds = [one for _, one in live.leaves(parameter["schema"], ("integer", "number"))]
            if parameter["in"] != "query" or not kinds:
                continue
            for text in ("-1", "NaN", "1e309", "true", str(HUGE), "-0x1", "1" * 5000):
                where = {parameter["name"]: text}
                reply = http.request(route.method, route.asked, params=where)
                assert reply.status_code in (400, 404), (route, where, reply.text)
                asked += 1
    assert asked > 0
