"""One splitter for streamed and plain answers."""

import json
import re
from itertools import chain
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opta_lmx.codec.answer import Answer, AnswerStyle
from opta_lmx.codec.deltas import CallStart, Delta, ReasoningDelta, TextDelta, collect
from opta_lmx.codec.tools.dialects import TOOL_DIALECTS, markers_of
from opta_lmx.core.types import FinishReason, Speech, Tool
from tests.unit.codec.splitting import mixture, split_at, splits

CALL = '<tool_call>{"name":"look","arguments":{"at":"sky"}}</tool_call>'
TOOLS = (Tool("look"), Tool("f"))
Final = tuple[str, list[tuple[str, str]], str, int]


def run(
    pieces: list[bytes],
    *,
    stop: tuple[str, ...] = (),
    dialect: str | None = "hermes",
    reason: FinishReason = "stop",
) -> Final:
    final = whole(pieces, style(dialect, "", stop=stop), reason)
    assert final[0] == ""
    return final[1:]


def style(dialect: str | None, reasoning: str, **others: Any) -> AnswerStyle:
    tools = TOOLS if dialect is not None else ()
    return AnswerStyle(speech=Speech(dialect or "json", reasoning), tools=tools, **others)


def whole(
    pieces: list[bytes], style: AnswerStyle, reason: FinishReason = "stop"
) -> tuple[str, str, list[tuple[str, str]], str, int]:
    """Reasoning, text, calls, finish and failures."""
    answer = Answer(style)
    deltas: list[Delta] = list(chain.from_iterable(answer.feed(piece) for piece in pieces))
    rest, finish = answer.finish(reason)
    got = collect([*deltas, *rest])
    calls = [(call.name, call.arguments) for call in got.calls]
    return got.reasoning, got.text, calls, finish, answer.parse_failures


LOOKED = [("look", '{"at":"sky"}')]


@pytest.mark.parametrize(
    ("text", "reason", "final"),
    [
        ("Hello.", "stop", ("Hello.", [], "stop", 0)),
        ("Hello", "length", ("Hello", [], "length", 0)),
        (" \n", "stop", (" \n", [], "stop", 0)),
        ("", "stop", ("", [], "stop", 0)),
        (CALL, "stop", ("", LOOKED, "tool_calls", 0)),
        (f"\n\n{CALL}\n", "stop", ("", LOOKED, "tool_calls", 0)),
        (f"So:\n{CALL}\n{CALL}\n", "stop", ("So:\n", LOOKED * 2, "tool_calls", 0)),
        (f"{CALL}\n\nDone.", "stop", ("\n\nDone.", LOOKED, "tool_calls", 0)),
        (f"{CALL}{CALL[:20]}", "length", (CALL[:20], LOOKED, "tool_calls", 1)),
        (CALL[:20], "length", (CALL[:20], [], "length", 1)),
    ],
)
def test_final_messages(text: str, reason: FinishReason, final: Final) -> None:
    assert run([text.encode()], reason=reason) == final


def test_without_tools_tags_are_text() -> None:
    assert run([CALL.encode()], dialect=None) == (CALL, [], "stop", 0)


def test_a_stop_string_ends_the_answer_whatever_came_after() -> None:
    answer = Answer(AnswerStyle(stop=("END",)))
    assert answer.feed(b"one E") == [TextDelta("one ")]
    assert not answer.stopped
    assert answer.feed(b"ND two") == []
    assert answer.stopped
    assert answer.feed(b"three") == []
    assert answer.finish("cancelled") == ([], "stop")
    assert answer.stop_sequence == "END"


def test_a_stop_string_outweighs_the_length() -> None:
    assert run([b"one END"], stop=("END",), reason="length") == ("one ", [], "stop", 0)


def test_half_a_stop_string_at_the_end_is_text() -> None:
    assert run([b"one EN"], stop=("END",)) == ("one EN", [], "stop", 0)
    assert run([b"one EN"], stop=("END",), dialect=None) == ("one EN", [], "stop", 0)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_half_a_stop_string_with_a_mark_in_it_is_read_at_the_end(size: int) -> None:
    said = style("hermes", "think", stop=("<think>Hm.</think>Yes",))
    text = b"So: <think>Hm.</think>Y"
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    assert whole(pieces, said) == ("Hm.", "So: Y", [], "stop", 0)


def test_a_stop_string_ends_a_long_call_at_once() -> None:
    answer = Answer(style("hermes", "", stop=("###",)))
    start = '<tool_call>{"name":"f","arguments":{"s":"'
    deltas: list[Delta] = []
    for piece in (start, *["some more "] * 1000, "and #", "##"):
        assert not answer.stopped
        deltas += answer.feed(piece.encode())
    assert answer.stopped
    assert answer.stop_sequence == "###"
    rest, finish = answer.finish("cancelled")
    (call,) = collect(deltas + rest).calls
    assert call.arguments == '{"s":"' + "some more " * 1000 + "and "
    assert finish == "stop"


def test_a_call_cut_by_a_stop_string_is_not_completed() -> None:
    cut = b'<tool_call>{"name":"rm","arguments":{"a":[1###'
    assert run([cut], stop=("###",)) == ("", [("rm", '{"a":[')], "stop", 0)
    assert run([cut], stop=("rm",)) == ('<tool_call>{"name":"', [], "stop", 1)
    assert run([CALL.encode()], stop=("</tool_call>",))[1] == LOOKED


def test_an_answer_cut_inside_a_call_ends_for_its_length() -> None:
    cut = CALL.encode() + b'<tool_call>{"name":"rm","arguments":{"a":[1'
    assert run([cut], reason="length") == ("", [*LOOKED, ("rm", '{"a":[')], "length", 0)
    assert run([cut], reason="stop") == ("", [*LOOKED, ("rm", '{"a":[1]}')], "tool_calls", 0)


@pytest.mark.parametrize(
    ("text", "thinking", "final"),
    [
        ("<think>\nHm.\n</think>\n\nYes.", False, ("Hm.", "Yes.", [], "stop", 0)),
        ("\nHm.\n\nSo.\n</think>\n\nYes.", True, ("Hm.\n\nSo.", "Yes.", [], "stop", 0)),
        ("<think>\nHm.</think>Yes.", True, ("Hm.", "Yes.", [], "stop", 0)),
        ("</think>\n\nYes.", False, ("", "Yes.", [], "stop", 0)),
        ("\n<think>\n\n</think>\n\nYes.", False, ("", "Yes.", [], "stop", 0)),
        ("<think>Hm.", False, ("Hm.", "", [], "stop", 0)),
        ("Yes `<think>` it.", False, ("", "Yes `<think>` it.", [], "stop", 0)),
        (f"<think>Hm.\n{CALL}", False, ("Hm.", "", LOOKED, "tool_calls", 0)),
        (f"<think>Hm.{CALL}\nMore.</think>", False, ("Hm.\nMore.", "", LOOKED, "tool_calls", 0)),
        (f"<think>Hm.</think>\n{CALL}", False, ("Hm.", "", LOOKED, "tool_calls", 0)),
        (
            "<think>Write <tool_call> and <tool_call>{} now.</think>Yes.",
            False,
            ("Write <tool_call> and <tool_call>{} now.", "Yes.", [], "stop", 0),
        ),
        (
            '<tool_call>{"name":"f","arguments":{"s":"<think>"}}</tool_call>',
            False,
            ("", "", [("f", '{"s":"<think>"}')], "tool_calls", 0),
        ),
    ],
)
def test_reasoning_is_told_from_the_answer(text: str, thinking: bool, final: object) -> None:
    said = style("hermes", "think", thinking=thinking)
    data = text.encode()
    assert whole([data], said) == final
    for cut in range(1, len(data)):
        assert whole([data[:cut], data[cut:]], said) == final


def test_stop_strings_do_not_act_inside_reasoning() -> None:
    said = style("hermes", "think", stop=("\n\n", "so"))
    text = b"<think>\n\nso it is\n</think>\n\nYes\n\nso."
    assert whole([text], said)[:4] == ("so it is", "Yes", [], "stop")
    for cut in range(1, len(text)):
        assert whole([text[:cut], text[cut:]], said)[:4] == ("so it is", "Yes", [], "stop")


def test_a_stop_string_right_behind_a_lone_end_of_reasoning_ends_the_answer() -> None:
    said = style(None, "think", stop=("}",))
    assert whole([b"a</think></think>}<think>b"], said)[:4] == ("", "a", [], "stop")


def test_thinking_tells_whose_the_last_token_was() -> None:
    answer = Answer(style(None, "think"))
    pieces = (b"<think>", b"Hm", b".", b"</think>", b"\n\n", b"Yes", b".")
    told = []
    for piece in pieces:
        answer.feed(piece)
        told.append(answer.thinking)
    assert told == [True, True, True, True, False, False, False]


def test_a_raw_answer_is_text_as_it_is() -> None:
    said = style("hermes", "think", thinking=True, raw=True)
    text = f"<think>Hm.</think>{CALL}"
    assert whole([text.encode()], said) == ("", text, [], "stop", 0)


ANALYSIS = "<|channel|>analysis<|message|>Hm.<|end|>"
HARMONY = (
    f"{ANALYSIS}<|start|>assistant<|channel|>commentary<|message|>"
    "Let me look.<|end|><|start|>assistant<|channel|>commentary to=functions.look "
    '<|constrain|>json<|message|>{"at":"sky"}<|call|>'
)


@pytest.mark.parametrize(
    ("text", "final"),
    [
        (HARMONY, ("Hm.", "Let me look.", LOOKED, "tool_calls", 0)),
        (
            f"{ANALYSIS}<|start|>assistant<|channel|>final<|message|>Yes.<|return|>",
            ("Hm.", "Yes.", [], "stop", 0),
        ),
        (
            ' to=functions.look<|channel|>commentary json<|message|>{"at":"sky"}',
            ("", "", LOOKED, "tool_calls", 0),
        ),
        ("<|channel|>final<|message|>Yes.", ("", "Yes.", [], "stop", 0)),
        ("Plain words.", ("", "Plain words.", [], "stop", 0)),
        ("<|channel|>commentary to=functions.look<|message|>up<|call|>", ("", "up", [], "stop", 1)),
        ("<|channel|>analysis", ("", "", [], "stop", 0)),
    ],
)
def test_channels(text: str, final: object) -> None:
    said = style("harmony", "harmony")
    data = text.encode()
    assert whole([data], said) == final
    for cut in range(1, len(data)):
        assert whole([data[:cut], data[cut:]], said) == final


def test_a_stop_string_acts_in_the_final_channel_alone() -> None:
    said = style(None, "harmony", stop=("Yes", "final"))
    text = ANALYSIS.replace("Hm", "Yes") + "<|start|>assistant<|channel|>final<|message|>A Yes"
    assert whole([text.encode()], said)[:4] == ("Yes.", "A ", [], "stop")


def test_text_is_shown_at_once() -> None:
    answer = Answer(style("hermes", "", stop=("###",)))
    shown = [answer.feed(piece) for piece in (b"He", b"llo", b" \xc3", b"\xa9t", b"\xc3\xa9")]
    expected = ["He", "llo", " ", "ét", "é"]
    assert shown == [[TextDelta(text)] for text in expected]


def test_calls_are_numbered_and_their_ids_survive_replay() -> None:
    answer = Answer(style("hermes", ""))
    deltas = answer.feed(f"{CALL}{CALL}".encode())
    calls = [delta for delta in deltas if isinstance(delta, CallStart)]
    assert [delta.index for delta in calls] == [0, 1]
    assert all(re.fullmatch(r"[A-Za-z0-9]{24}", delta.id) for delta in calls)
    assert calls[0].id != calls[1].id


def test_reasoning_streams() -> None:
    answer = Answer(style("hermes", "think", thinking=True))
    shown = [answer.feed(piece) for piece in (b"Hm", b" so", b"\n", b"</think>", b"\n", b"Yes")]
    assert shown == [
        [ReasoningDelta("Hm")],
        [ReasoningDelta(" so")],
        [],
        [],
        [],
        [TextDelta("Yes")],
    ]


FRAGMENTS = (
    *("<tool_call>", "</tool_call>", '{"name":"f","arguments":{"a":"é"}}', "{", "}", '"', "\n"),
    *('{"name":"f","arguments":{"a":', "<function=f>", "<parameter=a>", "</parameter>", "[", "]"),
    *("EN", "END", "D", "[TOOL_CALLS]", "😀", "<think>", "</think>", "`", "f", ",", "'", "\\", ":"),
    *("</function>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "True", "12", "="),
)
noise = st.binary(max_size=4)


@pytest.mark.parametrize("dialect", [None, *sorted(TOOL_DIALECTS)])
@settings(max_examples=60)
@given(
    data=st.data(),
    tail=noise,
    cuts=splits,
    stop=st.sampled_from([(), ("END",), ("\n", "END"), ("}",), ("k>", "a")]),
    reason=st.sampled_from(["stop", "length"]),
    thinking=st.booleans(),
)
def test_any_split_gives_the_same_message(  # noqa: PLR0917 - drawn by name
    dialect: str | None,
    data: st.DataObject,
    tail: bytes,
    cuts: list[int],
    stop: tuple[str, ...],
    reason: FinishReason,
    thinking: bool,
) -> None:
    marks = markers_of(Speech(dialect or "json", ""))
    text = data.draw(mixture(*FRAGMENTS, *marks, *marks, '{"a": "b", "c": [1, {}]}'))
    said = style(dialect, "think", stop=stop, thinking=thinking)
    answer = text.encode() + tail
    expected = whole([answer], said, reason)
    assert whole(split_at(answer, cuts), said, reason) == expected
    assert whole([answer[i : i + 1] for i in range(len(answer))], said, reason) == expected
    _, _, calls, finish, _ = expected
    if reason == "stop" and not stop:
        assert (finish == "tool_calls") == bool(calls)
        assert all(isinstance(json.loads(arguments), dict) for _, arguments in calls)


LEAD = "So. " * 2000
"""Behind so much text, what may be a call is read in lumps."""


@pytest.mark.parametrize("dialect", sorted(TOOL_DIALECTS))
@settings(max_examples=40)
@given(
    data=st.data(),
    cuts=splits,
    stop=st.sampled_from([(), ("END",), ("\n", "END"), ("}}", "<think>f")]),
    reason=st.sampled_from(["stop", "length"]),
)
def test_a_long_answer_is_read_like_a_short_one(
    dialect: str, data: st.DataObject, cuts: list[int], stop: tuple[str, ...], reason: FinishReason
) -> None:
    marks = markers_of(Speech(dialect, ""))
    call = f'{marks[0]}{{"name":"f","arguments":{{"a":"b","c":["'
    text = data.draw(mixture(*FRAGMENTS, *marks, call, call, '"]}}', "words " * 30))
    said = style(dialect, "think", stop=stop)
    answer = text.encode()
    reasoning, shown, *others = whole([b"So. " + answer], said, reason)
    expected = (reasoning, LEAD + shown.removeprefix("So. "), *others)
    assert whole([LEAD.encode(), *split_at(answer, cuts)], said, reason) == expected
    small = [answer[start : start + 8] for start in range(0, len(answer), 8)]
    assert whole([LEAD.encode(), *small], said, reason) == expected
