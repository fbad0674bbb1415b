"""Turns as dictionaries, and merging that loses nothing."""

from itertools import pairwise
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.backends.text.turns import (
    Arguments,
    fold_after_tools,
    merge_turns,
    message_dicts,
    short_call_ids,
    single_calls,
    tool_dicts,
)
from opta_lmx.core.types import Message, Role, Tool, ToolCall

CALL = ToolCall(id="abc", name="read", arguments='{"path": "é", "n": 2}')


def test_plain_turn_has_only_role_and_content() -> None:
    assert message_dicts([Message("user", "hi")]) == [{"role": "user", "content": "hi"}]


def test_reasoning_is_shown_under_the_names_templates_read() -> None:
    (turn,) = message_dicts([Message("assistant", "so", reasoning="hm")])
    assert (turn["reasoning_content"], turn["thinking"]) == ("hm", "hm")
    call = ToolCall("c1", "look", "{}")
    # Harmony's template refuses thoughts beside words and calls.
    (turn,) = message_dicts([Message("assistant", "so", reasoning="hm", tool_calls=(call,))])
    assert turn["reasoning_content"] == "hm"
    assert "thinking" not in turn


def test_tool_turns_carry_parsed_arguments_and_the_calls_name() -> None:
    turns = message_dicts(
        [
            Message("assistant", tool_calls=(CALL,)),
            Message("tool", "text", tool_call_id="abc"),
            Message("tool", "other", tool_call_id="abc", name="own"),
            Message("tool", "lost", tool_call_id="unknown"),
        ]
    )
    function = turns[0]["tool_calls"][0]["function"]
    assert function == {"name": "read", "arguments": {"path": "é", "n": 2}}
    assert turns[0]["tool_calls"][0]["type"] == "function"
    assert [turn.get("name") for turn in turns[1:]] == ["read", "own", None]


@pytest.mark.parametrize("text", ["", "not json", "[1]", "3", "[" * 100_000])
def test_arguments_that_are_no_object_stay_text(text: str) -> None:
    call = ToolCall(id="a", name="f", arguments=text)
    turn = message_dicts([Message("assistant", tool_calls=(call,))])[0]
    assert turn["tool_calls"][0]["function"]["arguments"] == text


def test_arguments_print_and_add_as_json() -> None:
    value = Arguments({"a": "é"})
    assert str(value) == '{"a": "é"}'
    assert "x" + value + "y" == 'x{"a": "é"}y'


def test_tools_take_openai_shape_and_none_when_absent() -> None:
    tool = Tool(name="f", description="does", parameters={"type": "object"})
    assert tool_dicts([tool]) == [
        {
            "type": "function",
            "function": {"name": "f", "description": "does", "parameters": {"type": "object"}},
        }
    ]
    assert tool_dicts([]) is None


def test_merge_gives_system_words_to_the_user() -> None:
    merged = merge_turns(
        [
            Message("system", "rules"),
            Message("user", "a"),
            Message("user", ""),
            Message("user", "b"),
        ]
    )
    assert merged == [Message("user", "rules\n\na\n\nb")]


def test_merge_keeps_tool_exchanges_apart() -> None:
    turns = [
        Message("user", "go"),
        Message("assistant", tool_calls=(CALL,)),
        Message("tool", "1", tool_call_id="abc"),
        Message("tool", "2", tool_call_id="abc"),
    ]
    assert merge_turns(turns) == turns


def test_words_after_a_tool_result_join_it() -> None:
    result = Message("tool", "out", tool_call_id="abc")
    folded = fold_after_tools([Message("user", "a"), result, Message("user", "b")])
    assert folded == [Message("user", "a"), Message("tool", "out\n\nb", tool_call_id="abc")]


def test_short_ids_join_a_result_to_its_call_as_before() -> None:
    turns = [
        Message("assistant", tool_calls=(msgspec.structs.replace(CALL, id="toolu_01AbCdEfGh"),)),
        Message("tool", "1", tool_call_id="toolu_01AbCdEfGh"),
        Message("tool", "2", tool_call_id="Ab1Cd2Ef3"),
        Message("user", "and?"),
    ]
    short = short_call_ids(turns)
    (call,) = short[0].tool_calls
    assert call.id == short[1].tool_call_id
    assert (len(call.id), call.id.isalnum(), call.id.isascii()) == (9, True, True)
    assert short[2:] == turns[2:]
    assert short_call_ids(short) == short == short_call_ids(turns)


def test_each_call_gets_a_turn_with_its_own_result() -> None:
    a, b, c = (msgspec.structs.replace(CALL, id=name) for name in "abc")
    result = {name: Message("tool", name, tool_call_id=name) for name in "abc"}
    turns = [
        Message("user", "go"),
        Message("assistant", "words", reasoning="why", tool_calls=(a, b, c)),
        *result.values(),
        Message("user", "on"),
    ]
    alone = [Message("assistant", tool_calls=(call,)) for call in (b, c)]
    first = Message("assistant", "words", reasoning="why", tool_calls=(a,))
    assert single_calls(turns) == [
        *(turns[0], first, result["a"], alone[0], result["b"], alone[1], result["c"]),
        turns[-1],
    ]
    assert single_calls([turns[1], turns[0]]) == [first, *alone, turns[0]]


MESSAGES = st.lists(
    st.builds(
        Message,
        role=st.sampled_from(get_args(Role)),
        content=st.text(alphabet="abc", max_size=3),
        tool_calls=st.sampled_from([(), (), (CALL,)]),
    ),
    max_size=8,
)


@given(MESSAGES)
def test_merged_turns_alternate_and_keep_all_words(messages: list[Message]) -> None:
    merged = merge_turns(messages)
    assert "".join(turn.content for turn in merged).replace("\n\n", "") == "".join(
        turn.content for turn in messages
    )
    assert all(turn.role != "system" for turn in merged)
    for before, after in pairwise(merged):
        assert before.role != after.role or before.role == "tool" or before.tool_calls
    assert merge_turns(merged) == merged


@given(MESSAGES)
def test_folding_never_raises_the_rank_of_words(messages: list[Message]) -> None:
    folded = fold_after_tools(messages)
    users = [turn.content for turn in folded if turn.role == "user"]
    assert all(content in [m.content for m in messages if m.role == "user"] for content in users)
    assert all((a.role, b.role) != ("tool", "user") for a, b in pairwise(folded))


@given(MESSAGES, st.lists(st.sampled_from("abcd"), min_size=2, max_size=3, unique=True))
def test_splitting_calls_loses_nothing(messages: list[Message], names: list[str]) -> None:
    many = tuple(msgspec.structs.replace(CALL, id=name) for name in names)
    # Only assistants call: the normaliser lets nothing else through.
    turns = [
        msgspec.structs.replace(
            turn, tool_calls=many if turn.tool_calls and turn.role == "assistant" else ()
        )
        for turn in messages
    ]
    split = single_calls(turns)
    assert all(len(turn.tool_calls) < 2 for turn in split)
    assert [c for turn in split for c in turn.tool_calls] == [
        c for turn in turns for c in turn.tool_calls
    ]
    assert [turn.content for turn in split if turn.content] == [
        turn.content for turn in turns if turn.content
    ]
