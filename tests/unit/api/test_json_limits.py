"""Bodies made to hurt: bounds on nesting and keys, and time that grows as the body does."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from starlette.requests import Request

from opta_lmx.api.body import read_body
from opta_lmx.api.json_body import MAX_CONTAINERS, MAX_DEPTH, MAX_KEYS, decode_object, read_head
from opta_lmx.core.errors import ErrorKind, LmxError


def refused(body: bytes) -> LmxError:
    with pytest.raises(LmxError) as caught:
        decode_object(body)
    return caught.value


@pytest.mark.parametrize(
    ("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]"), ("[ ", " ]")]
)
def test_nesting_has_a_bound(opening: str, closing: str) -> None:
    per_turn = opening.count("[") + opening.count("{")
    turns = (MAX_DEPTH - 1) // per_turn
    within = f'{{"a":{opening * turns}1{closing * turns}}}'
    assert "a" in decode_object(within.encode())
    for depth in (turns + 1, 1000, 100_000):
        body = f'{{"a":{opening * depth}1{closing * depth}}}'.encode()
        error = refused(body)
        assert (error.kind, error.code) == (ErrorKind.INVALID_REQUEST, "invalid_json")
        assert "nested" in error.message


def test_keys_have_a_bound_wherever_they_stand() -> None:
    def spread(per_object: int, objects: int) -> bytes:
        inner = dict.fromkeys(map(str, range(per_object)), 0)
        return json.dumps({"a": [inner] * objects}).encode()

    assert decode_object(spread(MAX_KEYS - 1, 1))
    assert decode_object(spread(1, MAX_KEYS - 1))
    for body in (spread(MAX_KEYS, 1), spread(1, MAX_KEYS), spread(1000, MAX_KEYS // 1000)):
        error = refused(body)
        assert error.code == "invalid_json"
        assert f"{MAX_KEYS} keys" in error.message


@pytest.mark.parametrize("item", ["[]", "{}", "[[[[{}]]]]"])
def test_lists_and_objects_have_a_bound(item: str) -> None:
    each = item.count("[") + item.count("{")

    def body(count: int) -> bytes:
        return f'{{"a":[{",".join([item] * count)}]}}'.encode()

    assert decode_object(body((MAX_CONTAINERS - 2) // each))
    error = refused(body((MAX_CONTAINERS - 2) // each + 1))
    assert error.code == "invalid_json"
    assert f"{MAX_CONTAINERS} objects and lists" in error.message


@pytest.mark.parametrize("field", ["a", "a.b", "\\u0061"])
def test_a_key_written_twice_counts_once(field: str) -> None:
    body = "{" + ",".join([f'"{field}":0'] * (MAX_KEYS + 1)) + "}"
    assert len(decode_object(body.encode())) == 1


async def declared(length: str) -> None:
    scope = {"type": "http", "headers": [(b"content-length", length.encode())]}

    async def receive() -> Any:
        raise AssertionError("nothing is read of what is refused")

    await read_body(Request(scope, receive), limit=1000, timeout_s=1)


@pytest.mark.parametrize("length", ["9" * 5000, "9" * 20, "-1", "1e3", "+5", "0x10", ""])
def test_a_declared_length_is_judged_before_anything_is_read(length: str) -> None:
    with pytest.raises(LmxError) as caught:
        asyncio.run(declared(length))
    assert caught.value.kind is ErrorKind.PAYLOAD_TOO_LARGE


def listed(item: str) -> Callable[[int], bytes]:
    def made(size: int) -> bytes:
        items = ",".join([item] * (size // (len(item) + 1)))
        return f'{{"model":"m","a":[{items}]}}'.encode()

    return made


def texted(piece: str) -> Callable[[int], bytes]:
    return lambda size: f'{{"model":"m","a":"{piece * (size // len(piece))}"}}'.encode()


HOSTILE: dict[str, Callable[[int], bytes]] = {
    "empty lists": listed("[]"),
    "empty objects": listed("{}"),
    "keys": listed('{"a":1,"b":2}'),
    "numbers": listed("1"),
    "strings": listed('""'),
    "nested": listed("[" * 60 + "]" * 60),
    "one text": texted("x"),
    "escapes": texted("\\n"),
    "half characters": texted("\\ud800"),
    "not a number at the end": lambda size: listed("1")(size)[:-2] + b",1e999]}",
    "digits": lambda size: b'{"model":"m","a":' + b"1" * size + b"}",
    "fraction": lambda size: b'{"model":"m","a":0.' + b"1" * size + b"}",
    "brackets": lambda size: b"[" * size,
    "objects": lambda size: b'{"a":' * (size // 5),
    "blanks": lambda size: b'{"model":"m"' + b" " * size + b"}",
    "one key": lambda size: b'{"model":"m","' + b"k" * size + b'":1}',
    "the same key": lambda size: b'{"model":"m"' + b',"a":1' * (size // 6) + b"}",
    "many keys": lambda size: b"{%s}" % b",".join(b'"%d":1' % n for n in range(size // 11)),
    "no end": lambda size: b'{"model":"' + b"x" * size,
}


def took_s(body: bytes) -> float:
    """Time to read the body, or to refuse it."""
    began = time.perf_counter()
    for read in (read_head, decode_object):
        with contextlib.suppress(LmxError):
            read(body)
    return time.perf_counter() - began


@pytest.mark.alone
@pytest.mark.parametrize("name", HOSTILE)
def test_a_large_body_takes_time_in_proportion(name: str) -> None:
    small, large = (HOSTILE[name](size) for size in (10 * 1024**2 // 8, 10 * 1024**2))
    # Eight times the body: linear is 8, quadratic 64.
    assert took_s(large) < 24 * max(took_s(small), 0.005)
