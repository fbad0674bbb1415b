"""Who is behind a request: which word is believed, and that none of them raises anybody."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import HTTPConnection

from opta_lmx.api.callers import (
    LANE_HEADERS,
    LANES,
    MAX_CLIENT,
    MAX_SESSION,
    PRINCIPAL,
    PRIORITIES,
    SESSION_HEADERS,
    caller_of,
)
from opta_lmx.api.json_body import Head, read_head
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.principal import Caller, Lane, Principal

ADDRESS = "10.0.0.7"


def ask(
    head: Head | None = None,
    *,
    owner: Principal | None = None,
    address: str | None = ADDRESS,
    **headers: str,
) -> Caller:
    """The caller of a request; `_` in the name of a header stands for `-` unless it is one."""
    named = {
        name if name in SESSION_HEADERS else name.replace("_", "-"): headers[name]
        for name in headers
    }
    scope: dict[str, Any] = {
        "type": "http",
        "headers": [(name.encode(), text.encode("latin-1")) for name, text in named.items()],
        "client": None if address is None else (address, 4711),
    }
    if owner is not None:
        scope[PRINCIPAL] = owner
    return caller_of(HTTPConnection(scope), head or Head("m", 1))


def test_without_a_word_it_is_the_address() -> None:
    assert ask() == Caller(Principal(), ADDRESS, Lane.INTERACTIVE, None)
    assert ask(address=None).client == ""


def test_the_client_is_who_it_says_first() -> None:
    said: dict[str, str] = {}
    head = Head("m", 1)
    assert ask(head).client == ADDRESS
    head = Head("m", 1, user="the user")
    assert ask(head).client == "the user"
    said["x_openclaw_agent_id"] = "the agent"
    assert ask(head, **said).client == "the agent"
    said["x_client_id"] = "the client"
    assert ask(head, **said).client == "the client"


@pytest.mark.parametrize("name", ["", " ", "\t", "\x00", "\x85"])
def test_a_name_that_says_nothing_is_passed_over(name: str) -> None:
    assert ask(Head("m", 1, user=name), x_client_id=name, x_openclaw_agent_id="bot").client == "bot"
    assert ask(Head("m", 1, user=name)).client == ADDRESS


@given(st.text(st.characters(max_codepoint=255)), st.text())
def test_a_client_is_short_and_printable_whatever_it_says(header: str, user: str) -> None:
    for client in (ask(x_client_id=header).client, ask(Head("m", 1, user=user)).client):
        assert 0 < len(client) <= MAX_CLIENT
        assert client.isprintable()


def test_the_owner_is_the_keys_and_no_header_changes_it() -> None:
    owner = Principal(tenant="t", key="k")
    assert ask(owner=owner, x_client_id="other", x_tenant_id="u").principal is owner


@pytest.mark.parametrize("own", list(Lane))
@pytest.mark.parametrize(("header", "words"), LANE_HEADERS)
def test_a_header_lowers_a_lane_and_never_raises_it(
    own: Lane, header: str, words: dict[str, Lane]
) -> None:
    owner = Principal(lane=own)
    for word, lane in words.items():
        for spelled in (word, f" {word.upper()} "):
            assert ask(owner=owner, **{header: spelled}).lane == max(own, lane)
    assert ask(owner=owner).lane is own


def test_the_words_reach_every_lane() -> None:
    assert set(LANES.values()) == set(PRIORITIES.values()) == set(Lane)


def test_the_lane_goes_before_the_priority() -> None:
    assert ask(x_serving_lane="interactive", x_priority="low").lane is Lane.INTERACTIVE
    assert ask(x_serving_lane="background", x_priority="high").lane is Lane.BACKGROUND


@pytest.mark.parametrize("word", ["", "fast", "0", "interactive,background", "h\xe9"])
@pytest.mark.parametrize("header", ["x-serving-lane", "x-priority"])
def test_an_unknown_word_is_refused_by_the_headers_name(header: str, word: str) -> None:
    with pytest.raises(LmxError) as refused:
        ask(**{"x-serving-lane": "agent", header: word})
    error = refused.value
    assert (error.kind, error.code) == (ErrorKind.INVALID_REQUEST, "invalid_header")
    assert error.param == header
    assert "'interactive'" in error.message


def test_the_session_is_the_bodys_and_then_the_headers() -> None:
    said: dict[str, str] = {}
    for name in reversed(SESSION_HEADERS):
        said[name] = f"by {name}"
        assert ask(**said).session == f"by {name}"
    assert ask(Head("m", 1, session="by the body"), **said).session == "by the body"
    assert ask(session_id="s" * 999).session == "s" * MAX_SESSION


BODIES: list[tuple[dict[str, Any], str, str]] = [
    ({}, "", ""),
    ({"user": "u", "safety_identifier": "s", "prompt_cache_key": "c"}, "u", "c"),
    ({"safety_identifier": "s", "metadata": {"user_id": "m"}}, "s", ""),
    ({"metadata": {"user_id": "m", "other": 1}}, "m", ""),
    ({"user": "\u00e9\u4e2d"}, "\u00e9\u4e2d", ""),
    ({"user": 5, "prompt_cache_key": ["c"], "metadata": "m"}, "", ""),
    ({"user": None, "metadata": {"user_id": 5}}, "", ""),
    ({"user": "u" * 5000, "prompt_cache_key": "c" * 5000}, "", ""),
    ({"metadata": {"user_id": "m", "more": "x" * 5000}}, "", ""),
]


@pytest.mark.parametrize(("fields", "user", "session"), BODIES)
def test_the_first_look_finds_who_asks(fields: dict[str, Any], user: str, session: str) -> None:
    head = read_head(json.dumps({"model": "m", "n": 2, **fields}).encode())
    assert head == Head("m", 2, user=user, session=session)


@given(st.dictionaries(st.sampled_from(["user", "metadata", "prompt_cache_key"]), st.binary()))
def test_a_first_look_at_anything_is_a_head_or_a_typed_error(fields: dict[str, bytes]) -> None:
    inside = b"".join(b',"%b":%b' % (name.encode(), text) for name, text in fields.items())
    try:
        found: object = read_head(b'{"model":"m"' + inside + b"}").model
    except LmxError as error:
        found = error.kind
    assert found in ("m", ErrorKind.INVALID_REQUEST)


def test_half_a_character_does_not_stop_the_first_look() -> None:
    assert read_head(b'{"model":"m","user":"\\ud83d"}').model == "m"
