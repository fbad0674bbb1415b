"""Input items: checked by position, completed, and joined into turns."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.api.responses import sealed
from opta_lmx.api.responses.items import read_items
from opta_lmx.api.responses.turns import droppable, to_messages, without_oldest
from opta_lmx.core.errors import LmxError
from opta_lmx.core.types import Message, ToolCall
from tests.support.openresponses import faults, valid

Json = dict[str, Any]

USER = {"type": "message", "role": "user", "content": "q"}
SAID = {
    "type": "message",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "a", "annotations": []}],
}
THOUGHT = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
OTHER_CALL = {**CALL, "call_id": "c2"}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "r"}
COMPACTED = {
    "type": "compaction",
    "encrypted_content": sealed.seal(sealed.Compacted(("Be kind.",), "They met.")),
}


def turns(*items: Json, instructions: str | None = None) -> tuple[Message, ...]:
    return to_messages(instructions, read_items([*items]))


def refused(*items: object) -> LmxError:
    with pytest.raises(LmxError) as caught:
        read_items([*items])
    return caught.value


def read_or_refused(items: list[Any]) -> tuple[list[Json] | None, str | None]:
    """The items, or what the refusal names."""
    try:
        return read_items(items), None
    except LmxError as error:
        return None, error.param


def test_a_text_is_a_users_message() -> None:
    assert to_messages(None, read_items("hello")) == (Message("user", "hello"),)


def test_instructions_come_first_and_join_a_system_message() -> None:
    system = {"role": "system", "content": [{"type": "input_text", "text": "two"}]}
    assert turns(system, USER, instructions="one") == (
        Message("system", "one\n\ntwo"),
        Message("user", "q"),
    )


def test_developers_are_the_system() -> None:
    assert turns({"role": "developer", "content": "x"}) == (Message("system", "x"),)


def test_users_in_a_row_are_one_turn() -> None:
    assert turns(USER, {**USER, "content": "more"}) == (Message("user", "q\n\nmore"),)


def test_thinking_text_and_calls_are_one_turn() -> None:
    assert turns(USER, THOUGHT, SAID, CALL, OTHER_CALL, OUTPUT) == (
        Message("user", "q"),
        Message(
            "assistant",
            "a",
            reasoning="hm",
            tool_calls=(ToolCall("c1", "f", "{}"), ToolCall("c2", "f", "{}")),
        ),
        Message("tool", "r", tool_call_id="c1"),
    )


def test_text_after_calls_begins_a_turn_and_thinking_after_text_joins_it() -> None:
    call = (ToolCall("c1", "f", "{}"),)
    assert turns(CALL, SAID) == (Message("assistant", tool_calls=call), Message("assistant", "a"))
    joined = Message("assistant", "a", reasoning="hm", tool_calls=call)
    assert turns(SAID, THOUGHT, CALL) == (joined,)


def test_thinking_is_read_from_whichever_form_it_has() -> None:
    content = {**THOUGHT, "summary": [], "content": [{"type": "reasoning_text", "text": "raw"}]}
    both = {**content, "summary": THOUGHT["summary"]}
    packed = {"type": "reasoning", "summary": []}
    packed["encrypted_content"] = sealed.seal(sealed.Thinking("packed"))
    for item, text in ((THOUGHT, "hm"), (content, "raw"), (both, "raw"), (packed, "packed")):
        assert turns(item, SAID)[0].reasoning == text
    foreign = {**THOUGHT, "encrypted_content": "gAAAA-of-another"}
    assert turns(foreign, SAID)[0].reasoning == "hm", "the summary is enough"
    assert refused({**foreign, "summary": []}).code == "invalid_encrypted_content"


def test_a_compaction_stands_for_what_came_before() -> None:
    system, user = turns(COMPACTED, USER, instructions="Now.")
    assert system.role == "system"
    for text in ("Now.", "Be kind.", "They met."):
        assert text in system.content
    assert user == Message("user", "q")


def test_sealed_things_are_not_mistaken_for_each_other() -> None:
    thinking = sealed.seal(sealed.Thinking("x"))
    error = refused({"type": "compaction", "encrypted_content": thinking})
    assert (error.code, error.param) == ("invalid_encrypted_content", "input.0.encrypted_content")


def test_items_get_ids_and_keep_those_they_have() -> None:
    items = read_items([USER, {**CALL, "id": "fc_mine"}, OUTPUT, THOUGHT, COMPACTED])
    prefixes = [item["id"].partition("_")[0] for item in items]
    assert prefixes == ["msg", "fc", "fco", "rs", "cmp"]
    assert items[1]["id"] == "fc_mine"
    for item in items:
        valid("ItemField", item)


@pytest.mark.parametrize(
    ("item", "where"),
    [
        (5, "input.0"),
        ({"type": "message", "role": "user"}, "input.0.content"),
        ({**USER, "content": 5}, "input.0.content"),
        ({**USER, "content": [{"type": "input_text"}]}, "input.0.content.0.text"),
        ({**USER, "content": [{"type": "input_audio"}]}, "input.0.content.0.type"),
        ({**USER, "content": [{"type": "refusal", "refusal": "x"}]}, "input.0.content.0.type"),
        ({**USER, "extra": 1}, "input.0.extra"),
        ({**USER, "status": "odd"}, "input.0.status"),
        ({**USER, "id": "x" * 129}, "input.0.id"),
        ({**CALL, "arguments": {}}, "input.0.arguments"),
        ({**CALL, "namespace": "n"}, "input.0.namespace"),
        ({**CALL, "call_id": ""}, "input.0.call_id"),
        ({**OUTPUT, "output": None}, "input.0.output"),
        ({**OUTPUT, "output": [{"type": "input_image"}]}, "input.0.output.0.type"),
        ({**THOUGHT, "summary": "x"}, "input.0.summary"),
        ({**THOUGHT, "summary": [{"type": "x", "text": "y"}]}, "input.0.summary.0.type"),
        ({"type": "item_reference"}, "input.0.id"),
        ({"type": "web_search_call"}, "input.0.type"),
        ({"type": 7}, "input.0.type"),
    ],
    ids=str,
)
def test_a_wrong_item_is_named_by_its_place(item: object, where: str) -> None:
    assert refused(item).param == where


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "role", "content", "text", "id", "output", "summary", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
kinds = st.sampled_from(
    ["message", "function_call", "function_call_output", "reasoning", "compaction", "x", None]
)


@given(st.lists(st.tuples(kinds, json_values), max_size=3))
def test_whatever_comes_is_read_or_refused(given_items: list[tuple[str | None, Any]]) -> None:
    items = [
        {"type": kind, **value} if isinstance(value, dict) else value for kind, value in given_items
    ]
    kept, param = read_or_refused(items)
    if kept is None:
        assert (param or "").startswith("input")
        return
    json.dumps(kept)
    for item in kept:
        if item["type"] != "item_reference":
            valid("ItemField", item)


@given(st.text(), st.lists(st.text(), max_size=3))
def test_what_is_sealed_is_opened_again(text: str, rules: list[str]) -> None:
    thinking, compacted = sealed.Thinking(text), sealed.Compacted(tuple(rules), text)
    assert sealed.unseal(sealed.seal(thinking), "p") == thinking
    assert sealed.unseal(sealed.seal(compacted), "p") == compacted


@given(st.text(alphabet="abcAB01-_=.é", max_size=40), st.data())
def test_what_is_broken_is_refused(text: str, data: st.DataObject) -> None:
    whole = sealed.seal(sealed.Thinking("something to say, and more of it"))
    cut = data.draw(st.integers(0, len(whole) - 1))
    for broken in (text, "lmx1." + text, whole[:cut]):
        with pytest.raises(LmxError) as caught:
            sealed.unseal(broken, "there")
        assert caught.value.code == "invalid_encrypted_content"
        assert caught.value.param == "there"


def test_a_bomb_is_not_unpacked() -> None:
    bomb = sealed.seal(sealed.Thinking("a" * (17 * 1024 * 1024)))
    assert len(bomb) < 100_000
    with pytest.raises(LmxError):
        sealed.unseal(bomb, "there")


roles = st.sampled_from(["system", "user", "assistant", "tool"])
talks = st.lists(st.tuples(roles, st.lists(st.sampled_from("abc"), max_size=2)), max_size=14)


def turns_of(talk: list[tuple[Any, list[str]]]) -> list[Message]:
    """Turns whose texts are their places; every call has an id of its own, and is answered once."""
    turns: list[Message] = []
    waiting: list[str] = []
    for place, (role, names) in enumerate(talk):
        text = str(place)
        if role == "tool":
            if waiting:
                turns.append(Message("tool", text, tool_call_id=waiting.pop(0)))
        elif role == "assistant":
            calls = tuple(ToolCall(f"{name}{place}", name, "{}") for name in dict.fromkeys(names))
            waiting += [call.id for call in calls]
            turns.append(Message("assistant", text, tool_calls=calls))
        else:
            turns.append(Message(role, text))
    return turns


def texts(turns: Iterable[Message], role: str) -> list[str]:
    """What was said in a role, merged turns taken apart."""
    joined = [turn.content for turn in turns if turn.role == role]
    return [text for content in joined for text in content.split("\n\n")]


@given(talks, st.integers(0, 14))
def test_the_oldest_go_and_nothing_is_parted(talk: list[tuple[Any, list[str]]], count: int) -> None:
    before = turns_of(talk)
    count = min(count, droppable(before))
    kept = without_oldest(before, count)
    assert count or texts(kept, "user") == texts(before, "user")
    assert texts(kept, "system") == texts(before, "system"), "rules never go"
    assert texts(kept, "user")[-1:] == texts(before, "user")[-1:], "what was asked last stays"
    calls = {call.id for turn in kept for call in turn.tool_calls}
    results = {turn.tool_call_id for turn in kept if turn.role == "tool"}
    answered = {turn.tool_call_id for turn in before if turn.role == "tool"}
    assert results == calls & answered, "a call and its result go together"
    fewer = sum(len(texts(kept, role)) for role in ("user", "assistant", "tool"))
    earlier = without_oldest(before, count - 1) if count else ()
    more = sum(len(texts(earlier, role)) for role in ("user", "assistant", "tool"))
    assert not count or fewer < more, "each step is shorter"


def test_a_long_turn_loses_its_oldest_rounds_but_the_last() -> None:
    rounds = [("assistant", ["a"]), ("tool", [])] * 3
    talk = turns_of([("system", []), ("user", []), ("assistant", []), ("user", []), *rounds])
    assert droppable(talk) == 3
    kept = without_oldest(talk, 3)
    assert [turn.content for turn in kept] == ["0", "3", "8", "9"]


def test_the_schema_agrees_on_what_is_read() -> None:
    for item in (USER, SAID, THOUGHT, CALL, OUTPUT, COMPACTED):
        valid("ItemParam", item)
    assert faults("ItemParam", {"type": "web_search_call"})


def test_an_answer_that_was_cut_is_kept_as_such() -> None:
    cut, whole = read_items([{**SAID, "status": "incomplete"}, SAID])
    assert (cut["status"], whole["status"]) == ("incomplete", "completed")
