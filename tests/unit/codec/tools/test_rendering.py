"""Tools for templates that know none."""

import json

from opta_lmx.codec.answer import Answer, AnswerStyle
from opta_lmx.codec.deltas import collect
from opta_lmx.codec.tools.rendering import with_default_tools
from opta_lmx.core.types import Message, Speech, Tool, ToolCall

TOOL = Tool("look", "Look somewhere.", {"type": "object", "properties": {"at": {"type": "string"}}})


def conversation() -> list[Message]:
    return [
        Message("system", "Be brief."),
        Message("user", "What is up?"),
        Message("assistant", "Let me see.", tool_calls=(ToolCall("c1", "look", '{"at":"sky"}'),)),
        Message("tool", "blue", tool_call_id="c1"),
        Message("tool", "wide", tool_call_id="c2"),
        Message("user", "And now?"),
    ]


def test_only_plain_turns_remain_and_they_alternate() -> None:
    turns = with_default_tools(conversation(), [TOOL])
    assert [turn.role for turn in turns] == ["system", "user", "assistant", "user"]
    assert all(not turn.tool_calls and turn.tool_call_id is None for turn in turns)
    assert turns[3].content == (
        "<tool_response>\nblue\n</tool_response>\n\n"
        "<tool_response>\nwide\n</tool_response>\n\nAnd now?"
    )


def test_the_system_text_carries_the_schemas() -> None:
    system = with_default_tools(conversation(), [TOOL])[0].content
    assert system.startswith("Be brief.\n\n# Tools")
    listed = system.split("<tools>\n")[1].split("\n</tools>")[0]
    assert json.loads(listed) == {
        "type": "function",
        "function": {
            "name": "look",
            "description": "Look somewhere.",
            "parameters": TOOL.parameters,
        },
    }


def test_a_conversation_without_system_text_gets_one() -> None:
    turns = with_default_tools([Message("user", "hi")], [TOOL])
    assert [turn.role for turn in turns] == ["system", "user"]


def test_without_tools_earlier_turns_are_still_rendered() -> None:
    turns = with_default_tools(conversation(), [])
    assert turns[0].content == "Be brief."
    assert "<tool_call>" in turns[2].content


def test_a_rendered_call_reads_back_as_the_same_call() -> None:
    calls = (ToolCall("c1", 'a"b', '{"x": [1, 2]}'), ToolCall("c2", "g", "not json"))
    rendered = with_default_tools([Message("assistant", "So:", tool_calls=calls)], [])[0].content
    answer = Answer(AnswerStyle(speech=Speech("hermes"), tools=(TOOL,)))
    deltas = answer.feed(rendered.encode())
    rest, _ = answer.finish("stop")
    collected = collect([*deltas, *rest])
    assert collected.text == "So:\n"
    assert [(call.name, call.arguments) for call in collected.calls] == [
        ('a"b', '{"x": [1, 2]}'),
        ("g", '"not json"'),
    ]
