"""The messages requests that OpenClaw sends, rebuilt in our own words: same structure, other text.

Facts: OpenClaw 2026.9.6 in its `anthropic-messages` mode. The system text is a marked stable block
and a volatile one; the newest real question is marked and older ones are plain strings; the last
turn is a list that is never kept; ids of calls come back stripped to letters and digits.
"""

import copy
import json
from typing import Any, NamedTuple

import httpx
import pytest
from anthropic.types import RawMessageStreamEvent
from pydantic import TypeAdapter

from opta_lmx.api.anthropic.parse import parse_messages
from tests.support.process import ServerProcess

Json = dict[str, Any]

EVENT: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)
MARK: Json = {"cache_control": {"type": "ephemeral"}}
HEADERS = {
    "Accept": "application/json",
    "anthropic-dangerous-direct-browser-access": "true",
    "anthropic-version": "2023-06-01",
    "Content-Type": "application/json",
    "traceparent": "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01",
    "x-api-key": "sk-x",
    "Accept-Language": "*",
    "Sec-Fetch-Mode": "cors",
    "User-Agent": "undici",
    "Accept-Encoding": "gzip, deflate",
}
TOOLS: list[Json] = [
    {
        "name": "read",
        "description": "Read a file.",
        "input_schema": {
            "type": "object",
            "required": ["path"],
            "properties": {"path": {"type": "string"}, "limit": {"type": "number", "minimum": 1}},
        },
    },
    {
        "name": "run",
        "description": "Run a command.",
        "input_schema": {
            "type": "object",
            "properties": {
                "command": {"type": "string", "minLength": 1},
                "env": {"type": "object", "patternProperties": {"^.*$": {"type": "string"}}},
                "mode": {"anyOf": [{"const": "now"}, {"enum": ["later", "never"]}]},
            },
        },
        **MARK,
    },
]


def text(words: str, **extra: Any) -> Json:
    return {"type": "text", "text": words, **extra}


def user(words: str = "Say the word hello.", *, newest: bool = True) -> Json:
    stamped = f"[Mon 2026-11-23 09:00 UTC] {words}"
    return {"role": "user", "content": [text(stamped, **MARK)] if newest else stamped}


CARRIER: Json = {
    "role": "user",
    "content": [text("<<<BEGIN NOTES>>>\nRunning jobs: none\n<<<END>>>")],
}


def call(call_id: str, name: str, given: Json) -> Json:
    return {"type": "tool_use", "id": call_id, "name": name, "input": given}


def result(call_id: str, content: Any, *, failed: bool = False) -> Json:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, "is_error": failed}


def body(*messages: Json, **extra: Any) -> Json:
    system = [text("You help one person on one computer.\n" * 30, **MARK), text("It is Monday.")]
    return {
        "model": "starter",
        "messages": [*messages, CARRIER],
        "max_tokens": 12,
        "stream": True,
        "system": system,
        "tools": copy.deepcopy(TOOLS),
        **extra,
    }


class Shape(NamedTuple):
    """One request, named for the test."""

    name: str
    body: Json


READ = [
    {"role": "assistant", "content": [call("tooluabc1", "read", {"path": "NOTES.md"})]},
    {"role": "user", "content": [result("tooluabc1", "# Notes\nNothing yet.")]},
]
TWO = [
    {
        "role": "assistant",
        "content": [
            text("I look."),
            call("tooluabc1", "read", {"path": "a"}),
            call("tooluabc2", "run", {}),
        ],
    },
    {
        "role": "user",
        "content": [
            result("tooluabc1", [text("one"), text("two")]),
            result("tooluabc2", "Command not found.", failed=True),
        ],
    },
]
SECOND = [
    user("hello", newest=False),
    {"role": "assistant", "content": [text("Hello.")]},
    user("And again."),
]
SHAPES = [
    Shape("first-turn", body(user())),
    Shape("tool-turn", body(user(), *READ)),
    Shape("two-calls", body(user(), *TWO)),
    Shape("second-turn", body(*SECOND)),
    Shape("reasoning-model", body(user(), thinking={"type": "disabled"})),
    Shape(
        "onboarding",
        {"model": "starter", "messages": [{"role": "user", "content": "Hi"}]} | {"max_tokens": 1},
    ),
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_a_real_model_takes_the_request(
    starter_server: ServerProcess, shape: Shape, model: str
) -> None:
    reply = starter_server.http.post(
        f"{starter_server.url}/v1/messages", json={**shape.body, "model": model}, headers=HEADERS
    )
    assert reply.status_code == 200, reply.text
    if shape.body.get("stream"):
        assert reply.headers["content-type"].startswith("text/event-stream")
        _check_events(reply)
    else:
        assert reply.headers["content-type"] == "application/json"
        assert reply.json()["stop_reason"] == "max_tokens"


def _check_events(reply: httpx.Response) -> None:
    kinds: list[str] = []
    for block in reply.text.split("\n\n")[:-1]:
        name, data = block.split("\n")
        if name != "event: ping":
            found = EVENT.validate_json(data.removeprefix("data: "), strict=True)
            assert name == f"event: {found.type}"
            kinds.append(found.type)
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]


def test_turns_alternate_for_strict_templates() -> None:
    merged = parse_messages(body(user(), *READ)).request.prompt.messages
    assert [turn.role for turn in merged] == ["system", "user", "assistant", "tool", "user"]
    both = parse_messages(body(user(), *TWO)).request.prompt.messages
    assert [turn.role for turn in both] == ["system", "user", "assistant", "tool", "tool", "user"]
    assert both[4].content == "Error: Command not found."


def test_a_turn_and_the_next_share_everything_before_the_carrier() -> None:
    """A marked question of one request is a plain string in the next; its text must not differ."""
    first = parse_messages(body(user("hello"))).request.prompt.messages
    second = parse_messages(body(*SECOND)).request.prompt.messages
    assert first[0] == second[0]
    assert first[1].content.startswith(second[1].content)


def test_the_overflow_of_a_long_session_is_told_in_words_it_compacts_on(
    starter_server: ServerProcess, model: str
) -> None:
    long = body(user("word " * 9000), model=model)
    reply = starter_server.http.post(
        f"{starter_server.url}/v1/messages", json=long, headers=HEADERS
    )
    assert reply.status_code == 400
    message = json.loads(reply.content)["error"]["message"]
    assert message.startswith("prompt is too long: ")
    assert message.endswith(" tokens > 8192 maximum")
