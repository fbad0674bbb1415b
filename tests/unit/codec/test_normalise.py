"""OpenAI-shaped messages become turns; what has no meaning is refused by its place."""

from typing import Any

import pytest

from opta_lmx.codec.normalise import normalise
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.types import Message, ToolCall

CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at":1}'}}
LOOK = ToolCall("c1", "look", '{"at":1}')


def text_part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


@pytest.mark.parametrize(
    ("raw", "turn"),
    [
        ({"role": "user", "content": "hi"}, Message("user", "hi")),
        ({"role": "user", "content": []}, Message("user", "")),
        ({"role": "user", "content": None}, Message("user", "")),
        (
            {"role": "user", "content": [text_part("a"), text_part("b")]},
            Message("user", "a\nb"),
        ),
        ({"role": "developer", "content": "be brief"}, Message("system", "be brief")),
        ({"role": "user", "content": "hi", "name": "ann"}, Message("user", "hi", name="ann")),
        (
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            Message("assistant", "", tool_calls=(LOOK,)),
        ),
        ({"role": "assistant", "tool_calls": [CALL]}, Message("assistant", "", tool_calls=(LOOK,))),
        (
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
            Message("assistant", "no"),
        ),
        (
            {
                "role": "assistant",
                "content": "ok",
                "refusal": None,
                "audio": None,
                "function_call": None,
                "annotations": [],
                "tool_calls": None,
            },
            Message("assistant", "ok"),
        ),
        (
            {"role": "tool", "content": "42", "tool_call_id": "orphan"},
            Message("tool", "42", tool_call_id="orphan"),
        ),
        (
            {"role": "tool", "content": None, "tool_call_id": "c1", "name": "look"},
            Message("tool", "", tool_call_id="c1", name="look"),
        ),
    ],
)
def test_one_message(raw: dict[str, Any], turn: Message) -> None:
    assert normalise([raw]) == (turn,)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_replayed_reasoning_is_kept(field: str) -> None:
    raw = {"role": "assistant", "content": "so", field: "hm"}
    assert normalise([raw]) == (Message("assistant", "so", reasoning="hm"),)
    (merged,) = normalise([raw, raw])
    assert (merged.content, merged.reasoning) == ("so\n\nso", "hm\n\nhm")


@pytest.mark.parametrize("value", [5, ["hm"], {"text": "hm"}])
@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_that_is_no_text_is_refused(field: str, value: object) -> None:
    with pytest.raises(LmxError) as caught:
        normalise([{"role": "assistant", "content": "so", field: value}])
    assert caught.value.param == f"messages.0.{field}"


def test_a_tool_turn_as_openclaw_replays_it() -> None:
    turns = normalise(
        [
            {"role": "developer", "content": "rules"},
            {"role": "user", "content": "look"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "seen", "tool_call_id": "c1"},
            {"role": "user", "content": [text_part("<<carrier>>")]},
        ]
    )
    assert [turn.role for turn in turns] == ["system", "user", "assistant", "tool", "user"]
    assert turns[2].tool_calls == (LOOK,)
    assert turns[3].tool_call_id == "c1"


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        ("hi", "messages.0"),
        ({"content": "hi"}, "messages.0.role"),
        ({"role": "robot", "content": "hi"}, "messages.0.role"),
        ({"role": ["user"], "content": "hi"}, "messages.0.role"),
        ({"role": "user"}, "messages.0.content"),
        ({"role": "user", "content": 5}, "messages.0.content"),
        ({"role": "user", "content": {"type": "text"}}, "messages.0.content"),
        ({"role": "user", "content": ["hi"]}, "messages.0.content.0"),
        ({"role": "user", "content": [{"text": "hi"}]}, "messages.0.content.0.type"),
        ({"role": "user", "content": [{"type": ["text"]}]}, "messages.0.content.0.type"),
        ({"role": "user", "content": [{"type": "text", "text": 1}]}, "messages.0.content.0.text"),
        ({"role": "user", "content": "x", "name": ""}, "messages.0.name"),
        ({"role": "user", "content": "x", "name": "n" * 300}, "messages.0.name"),
        ({"role": "tool", "content": "x"}, "messages.0.tool_call_id"),
        ({"role": "tool", "content": "x", "tool_call_id": 7}, "messages.0.tool_call_id"),
        ({"role": "assistant", "tool_calls": {}}, "messages.0.tool_calls"),
        ({"role": "assistant", "tool_calls": [1]}, "messages.0.tool_calls.0"),
        (
            {"role": "assistant", "tool_calls": [{"id": "c1"}]},
            "messages.0.tool_calls.0.function",
        ),
        (
            {"role": "assistant", "tool_calls": [{**CALL, "id": None}]},
            "messages.0.tool_calls.0.id",
        ),
        (
            {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f"}}]},
            "messages.0.tool_calls.0.function.arguments",
        ),
    ],
)
def test_malformed_messages_are_invalid(raw: object, param: str) -> None:
    with pytest.raises(LmxError) as caught:
        normalise([raw])
    assert (caught.value.kind, caught.value.param) == (ErrorKind.INVALID_REQUEST, param)


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        ({"role": "user", "content": [text_part("see"), IMAGE]}, "messages.0.content.1.image_url"),
        ({"role": "user", "content": [{"type": "file"}]}, "messages.0.content.0.file"),
        (
            {"role": "user", "content": [{"type": "input_audio"}]},
            "messages.0.content.0.input_audio",
        ),
        ({"role": "user", "content": [{"type": "smell"}]}, "messages.0.content.0.type"),
        (
            {"role": "user", "content": [{"type": "refusal", "refusal": "no"}]},
            "messages.0.content.0.type",
        ),
        (
            {"role": "user", "content": [{**text_part("x"), "cache_control": {}}]},
            "messages.0.content.0.cache_control",
        ),
        ({"role": "function", "content": "x", "name": "f"}, "messages.0.role"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "messages.0.tool_calls"),
        ({"role": "user", "content": "x", "colour": 1}, "messages.0.colour"),
        ({"role": "assistant", "content": "x", "refusal": "no"}, "messages.0.refusal"),
        (
            {"role": "assistant", "tool_calls": [{**CALL, "type": "custom"}]},
            "messages.0.tool_calls.0.type",
        ),
        (
            {"role": "assistant", "tool_calls": [{**CALL, "colour": 1}]},
            "messages.0.tool_calls.0.colour",
        ),
    ],
)
def test_what_has_no_meaning_is_unsupported(raw: dict[str, Any], param: str) -> None:
    with pytest.raises(LmxError) as caught:
        normalise([raw])
    assert (caught.value.kind, caught.value.param) == (ErrorKind.UNSUPPORTED_PARAMETER, param)


def test_the_place_counts_messages_and_names_the_list() -> None:
    with pytest.raises(LmxError) as caught:
        normalise([{"role": "user", "content": "x"}, 5], param="input")
    assert caught.value.param == "input.1"


def test_an_empty_conversation_is_refused() -> None:
    with pytest.raises(LmxError) as caught:
        normalise([])
    assert caught.value.param == "messages"
