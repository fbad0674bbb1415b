"""One splitter for streamed and plain answers."""

import re
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.codec.answer import Answer, CallDelta, Delta, TextDelta, collect
from opta_lmx.core.types import FinishReason
from tests.unit.codec.splitting import mixture, split_at, splits

CALL = '<tool_call>{"name":"look","arguments":{"at":"sky"}}</tool_call>'
Final = tuple[str, list[tuple[str, str]], str, int]


def run(
    pieces: list[bytes],
    *,
    stop: tuple[str, ...] = (),
    dialect: str | None = "hermes",
    reason: FinishReason = "stop",
) -> Final:
    answer = Answer(stop, dialect)
    deltas: list[Delta] = list(chain.from_iterable(answer.feed(piece) for piece in pieces))
    rest, finish = answer.finish(reason)
    text, calls = collect([*deltas, *rest])
    return text, [(call.name, call.arguments) for call in calls], finish, answer.parse_failures


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
    answer = Answer(("END",), None)
    assert answer.feed(b"one E") == [TextDelta("one ")]
    assert not answer.stopped
    assert answer.feed(b"ND two") == []
    assert answer.stopped
    assert answer.feed(b"three") == []
    assert answer.finish("cancelled") == ([], "stop")


def test_a_stop_string_outweighs_the_length() -> None:
    assert run([b"one END"], stop=("END",), reason="length") == ("one ", [], "stop", 0)


def test_half_a_stop_string_at_the_end_is_text() -> None:
    assert run([b"one EN"], stop=("END",)) == ("one EN", [], "stop", 0)
    assert run([b"one EN"], stop=("END",), dialect=None) == ("one EN", [], "stop", 0)


def test_a_call_cut_by_a_stop_string_is_not_completed() -> None:
    text, calls, finish, _ = run([b'<tool_call>{"name":"rm","arguments":{"a":[1###'], stop=("###",))
    assert (text, calls, finish) == ('<tool_call>{"name":"rm","arguments":{"a":[1', [], "stop")
    assert run([CALL.encode()], stop=("</tool_call>",))[1] == LOOKED


def test_text_is_shown_at_once() -> None:
    answer = Answer(("###",), "hermes")
    shown = [answer.feed(piece) for piece in (b"He", b"llo", b" \xc3", b"\xa9t", b"\xc3\xa9")]
    expected = ["He", "llo", " ", "ét", "é"]
    assert shown == [[TextDelta(text)] for text in expected]


def test_calls_are_numbered_and_their_ids_survive_replay() -> None:
    answer = Answer((), "hermes")
    deltas = answer.feed(f"{CALL}{CALL}".encode())
    calls = [delta for delta in deltas if isinstance(delta, CallDelta)]
    assert [delta.index for delta in calls] == [0, 1]
    assert all(re.fullmatch(r"[A-Za-z0-9]{24}", delta.call.id) for delta in calls)
    assert calls[0].call.id != calls[1].call.id


answers = mixture(
    "<tool_call>",
    "</tool_call>",
    '{"name":"f","arguments":{"a":"é"}}',
    "{",
    "}",
    '"',
    "\n",
    "EN",
    "END",
    "D",
    "[TOOL_CALLS]",
    "😀",
)
noise = st.binary(max_size=4)


@given(
    text=answers,
    tail=noise,
    cuts=splits,
    dialect=st.sampled_from([None, "hermes", "json"]),
    stop=st.sampled_from([(), ("END",), ("\n", "END"), ("}",)]),
    reason=st.sampled_from(["stop", "length"]),
)
def test_any_split_gives_the_same_message(  # noqa: PLR0917 - drawn by name
    text: str,
    tail: bytes,
    cuts: list[int],
    dialect: str | None,
    stop: tuple[str, ...],
    reason: FinishReason,
) -> None:
    data = text.encode() + tail
    whole = run([data], stop=stop, dialect=dialect, reason=reason)
    assert run(split_at(data, cuts), stop=stop, dialect=dialect, reason=reason) == whole
