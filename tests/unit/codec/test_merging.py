"""Adjacent turns of one role become one."""

from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.codec.merging import SEPARATOR, merge_adjacent
from opta_lmx.core.types import Message, Role, ToolCall

A, B = ToolCall("a", "f", "{}"), ToolCall("b", "g", "{}")


def user(text: str, name: str | None = None) -> Message:
    return Message("user", text, name=name)


def test_neighbours_join_with_a_blank_line() -> None:
    turns = [Message("system", "s1"), Message("system", "s2"), user("u1"), user("u2"), user("u3")]
    assert merge_adjacent(turns) == (Message("system", "s1\n\ns2"), user("u1\n\nu2\n\nu3"))


def test_a_system_turn_in_mid_conversation_stays_in_place() -> None:
    turns = (user("a"), Message("system", "s"), user("b"))
    assert merge_adjacent(turns) == turns


def test_empty_turns_vanish_beside_others_and_stay_alone() -> None:
    assert merge_adjacent([user(""), user("a"), user("")]) == (user("a"),)
    assert merge_adjacent([Message("system", "s"), user("")]) == (Message("system", "s"), user(""))


def test_assistant_text_joins_the_calls_after_it() -> None:
    turns = [
        Message("assistant", "so"),
        Message("assistant", "", tool_calls=(A,)),
        Message("assistant", "", tool_calls=(B,)),
    ]
    assert merge_adjacent(turns) == (Message("assistant", "so", tool_calls=(A, B)),)


def test_text_after_calls_stays_after_them() -> None:
    turns = (
        Message("assistant", "", tool_calls=(A,)),
        Message("assistant", ""),
        Message("assistant", "so"),
    )
    assert merge_adjacent(turns) == (
        Message("assistant", "", tool_calls=(A,)),
        Message("assistant", "so"),
    )


def test_anchors_stay_where_they_were_in_the_words() -> None:
    turns = [
        Message("user", "one two", anchors=(3,)),
        Message("user", ""),
        Message("user", "three", anchors=(0, 5)),
    ]
    (joined,) = merge_adjacent(turns)
    assert [joined.content[:anchor] for anchor in joined.anchors] == [
        *("one", "one two\n\n", "one two\n\nthree")
    ]


def test_tool_results_never_merge() -> None:
    turns = (Message("tool", "1", tool_call_id="a"), Message("tool", "2", tool_call_id="b"))
    assert merge_adjacent(turns) == turns


def test_different_speakers_are_kept_apart() -> None:
    turns = (user("a", "ann"), user("b", "bob"))
    assert merge_adjacent(turns) == turns
    assert merge_adjacent([user("a", "ann"), user("b", "ann")]) == (user("a\n\nb", "ann"),)


roles: st.SearchStrategy[Role] = st.sampled_from(["system", "user", "assistant", "tool"])
messages = st.builds(
    Message,
    role=roles,
    content=st.sampled_from(["", "x", "y z"]),
    tool_calls=st.sampled_from([(), (A,), (A, B)]),
)


@given(st.lists(messages, max_size=12))
def test_nothing_is_lost_and_a_second_pass_changes_nothing(turns: list[Message]) -> None:
    merged = merge_adjacent(turns)
    said = [part for turn in turns for part in turn.content.split() if part]
    kept = [part for turn in merged for part in turn.content.replace(SEPARATOR, " ").split()]
    assert kept == said
    assert [c for t in merged for c in t.tool_calls] == [c for t in turns for c in t.tool_calls]
    assert merge_adjacent(merged) == merged
