"""A hostile or confused model cannot make the splitter slow: cost grows with the length.

Nor is it ever dear: 100 kB of anything cost less than 50 ms on the machine the figure is for,
and stop strings add less than half of that.
There a loop of a million additions takes 33 ms, so elsewhere the figure is one and a half such
loops, timed beside the reading itself.
"""

import time
from collections.abc import Iterator

import msgspec
import pytest

from opta_lmx.codec.answer import Answer, AnswerStyle
from opta_lmx.codec.deltas import Collected, Delta, collect
from opta_lmx.codec.tools.dialects import TOOL_DIALECTS, markers_of
from opta_lmx.codec.tools.source import CALL_COST, PATIENCE
from opta_lmx.core.types import FinishReason, Speech, Tool, ToolCall

SMALL, LARGE = 125_000, 1_000_000
BUDGET = 3.0 * LARGE / SMALL
"""Quadratic work would grow by `(LARGE / SMALL) ** 2` = 64 times."""

TOOLS = (Tool("f", "", {"properties": {"s": {"type": "string"}}}),)
HERMES = Speech("hermes", "think")


def cpu_seconds(style: AnswerStyle, text: str, piece: int) -> float:
    data = text.encode()
    answer = Answer(style)
    begun = time.process_time()
    for start in range(0, len(data), piece):
        answer.feed(data[start : start + piece])
    answer.finish("stop")
    return time.process_time() - begun


def grows_linearly(style: AnswerStyle, prefix: str, unit: str, piece: int) -> bool:
    def measure(size: int) -> float:
        return cpu_seconds(style, prefix + unit * (size // len(unit)), piece)

    return any(measure(LARGE) < BUDGET * max(measure(SMALL), 0.005) for _ in range(3))


ARGUMENTS = '<tool_call>{"name":"f","arguments":{"s":'


@pytest.mark.parametrize(
    ("prefix", "unit", "piece"),
    [
        ("", "<tool_call>", LARGE),
        ('<tool_call>{"name":"', "</tool_call>", 8),
        ("", '<tool_call>{"name":"f,"}</tool_call>', LARGE),
        ("<tool_call>", "[", LARGE),
        ('<tool_call>{"name":"f","x":', "[", LARGE),
        (ARGUMENTS, "{", LARGE),
        (ARGUMENTS + "[", "[1],", 64),
        (ARGUMENTS + '"', "</tool_call>", 64),
        (ARGUMENTS + '"', '", "', 64),
        (ARGUMENTS + '"', '"', LARGE),
        (ARGUMENTS + '"', "\n", LARGE),
        (ARGUMENTS + '"', "\\", LARGE),
        (ARGUMENTS + "[", ",", LARGE),
        (ARGUMENTS + "[", " ", 8),
        ("", "<think>", LARGE),
        ("<think>", "</think>", LARGE),
        ("<think>", " ", 8),
        ("<think>", "<tool_call>", LARGE),
        ("<think>", "<tool_call>{", LARGE),
        ("", "<think></think>", 8),
        ("<tool_call>f<arg_key>s</arg_key><arg_value>", "</arg_valu", 8),
        ("<tool_call><function=f><parameter=s>", "\n", 8),
        ("", ARGUMENTS + '"lost</tool_call>', LARGE),
    ],
)
def test_cost_grows_with_the_length(prefix: str, unit: str, piece: int) -> None:
    assert grows_linearly(AnswerStyle(speech=HERMES, tools=TOOLS), prefix, unit, piece)


@pytest.mark.parametrize("dialect", sorted(TOOL_DIALECTS))
def test_marks_without_calls_cost_little(dialect: str) -> None:
    speech = Speech(dialect, "")
    style = AnswerStyle(speech=speech, tools=TOOLS)
    assert grows_linearly(style, "", "".join(markers_of(speech)) + "g{\n", 4096)


@pytest.mark.parametrize("unit", ["a", "<think>aab</think>b", "</think>", "<think>ab"])
@pytest.mark.parametrize("stop", [("a" * 1000 + "b", "aab"), ("z<think>",)])
def test_stop_strings_cost_little(unit: str, stop: tuple[str, ...]) -> None:
    assert grows_linearly(AnswerStyle(stop=stop, speech=HERMES, tools=TOOLS), "", unit, 64)


@pytest.mark.parametrize("unit", ["a", "ab", "[", "a[aa"])
@pytest.mark.parametrize("piece", [8, LARGE])
def test_stop_strings_cost_little_without_marks_to_look_for(unit: str, piece: int) -> None:
    style = AnswerStyle(stop=("a" * 1000 + "b", "ab" * 500 + "c", "[" * 1000 + "]", "a[" * 512))
    assert grows_linearly(style, "", unit, piece)


SIZE = 200_000
LOOPS = 1.5 * SIZE / 100_000
PIECES = (8, SIZE)
"""As the smallest tokens bring it, and at once."""
STOPS = ("</s>", "\n\nUser:", "a" * 1000 + "b", '"a":"b"')
"""Such as requests bring, beginnings of marks, and one that is always nearly met."""


def loop_seconds() -> float:
    begun, total = time.process_time(), 0
    for number in range(1_000_000):
        total += number & 7
    return time.process_time() - begun


def dear(
    style: AnswerStyle, inputs: Iterator[tuple[str, str]], pieces: tuple[int, ...] = PIECES
) -> list[tuple[str, str, int]]:
    """The inputs (and sizes of their pieces) that exceed the figure every time they are read.

    Where stop strings add half the figure, too: the size of those is 0.
    """
    watched = msgspec.structs.replace(style, stop=STOPS)
    suspects = [(prefix, unit, piece) for prefix, unit in inputs for piece in (*pieces, 0)]
    for _ in range(6):
        allowed = LOOPS * loop_seconds()
        kept: list[tuple[str, str, int]] = []
        costs: dict[tuple[str, str], float] = {}
        for prefix, unit, piece in suspects:
            text = prefix + unit * (SIZE // len(unit.encode()))
            cost = cpu_seconds(style if piece else watched, text, piece or PIECES[0])
            if piece == PIECES[0]:
                costs[prefix, unit] = cost
            if not piece:
                known = costs.get((prefix, unit))
                cost -= cpu_seconds(style, text, PIECES[0]) if known is None else known
            if cost > allowed * (1 if piece else 0.5):
                kept.append((prefix, unit, piece))
        suspects = kept
        if not suspects:
            break
    return suspects


VALUE = ARGUMENTS + '"",'
LIST = ARGUMENTS + "["
WHOLE = '{"name":"f","arguments":{}}'


PROVOCATIONS = pytest.mark.parametrize(
    ("prefix", "units"),
    [
        ("", ("<", "</", "a", '"<think>', "<think>", "<think></think>", "<think>a</think>\n")),
        ("", ("<tool_call>", "<tool_call>{", f"<tool_call>{WHOLE}</tool_call>", "<function=f>")),
        ("", (ARGUMENTS + '"lost</tool_call>', '<tool_call>{"arguments":{},"name":"f"}')),
        ("", ("<tool_call>f</tool_call>", "<tool_call>```\n{", '<tool_call>{"name":"f"}')),
        ("<think>", ("<tool_call>{", "<tool_call>", "</think>", " ")),
        (
            ARGUMENTS + '"',
            ('"', '"<', "\\", '\\"', "\\u12", "\\x", "\n", "</tool_call>", '", "', "<"),
        ),
        (LIST, ("1 ", "1,", "[]", "{}", '""', "[1],", "[[[[1]]]],", "[[[[[[[1]]]]]]],", ",", "][")),
        (
            LIST,
            ('"<",', '"\\n",', '"\n",', "1e5,", "[ ],", "[1,],", "'a',", '"a",', "\v", '"\\u12",'),
        ),
        (VALUE, ("a:1,", "a=1,", "'a':'b',", '"k":1,', '"k":[1,{"a":"b"}],', '"\\n":1,', ":", "<")),
        ("<tool_call>", ("[", "{", '{"x":1,', "```json\n{")),
        ("<tool_call>{", (",", '"x":1,', '"x":{},', '"x":"",')),
        ('<tool_call>{"arguments":[', ("1,", "1 ", '"a",')),
        (f"<tool_call>{WHOLE}", (",", f",{WHOLE}", "}", ";")),
        ('<tool_call>{"name":"f","arguments":{}', (',"x":1', ",", "}")),
        ("<tool_call>f", ("<arg_key>q</arg_key><arg_value>[1</arg_value>",)),
        ("<tool_call><function=f>", ("<parameter=q>{a</parameter>", "<parameter=s>1</parameter>")),
    ],
)


@PROVOCATIONS
def test_nothing_is_dear(prefix: str, units: tuple[str, ...]) -> None:
    style = AnswerStyle(speech=HERMES, tools=TOOLS)
    assert not dear(style, ((prefix, unit) for unit in units), (8, 64, SIZE))


def provocations(dialect: str) -> Iterator[tuple[str, str]]:
    """Marks of a dialect in bulk: alone, as calls that break, and around calls that do not."""
    marks = markers_of(Speech(dialect, ""))
    yield "", "".join(marks)
    yield "", marks[0] + WHOLE + marks[-1]
    yield "", marks[0] + "f{}" + marks[-1]
    yield marks[0] + "f", marks[-1] + "s"
    yield marks[0] + '{"name":"f","arguments":{"s":"', marks[-1]
    yield marks[0] + "[f(", 'a="x",'
    yield "", marks[0] + "{"
    yield "", "<think></think>["


@pytest.mark.parametrize("dialect", sorted(TOOL_DIALECTS))
def test_no_dialect_is_dear(dialect: str) -> None:
    style = AnswerStyle(speech=Speech(dialect, "think"), tools=TOOLS)
    assert not dear(style, provocations(dialect))


def read(
    style: AnswerStyle, text: str, piece: int, reason: FinishReason = "stop"
) -> tuple[Collected, str, int]:
    answer, deltas, data = Answer(style), list[Delta](), text.encode()
    for start in range(0, len(data), piece):
        deltas += answer.feed(data[start : start + piece])
    rest, kind = answer.finish(reason)
    collected = collect(deltas + rest)
    calls = tuple(ToolCall("", call.name, call.arguments) for call in collected.calls)
    return Collected(collected.text, collected.reasoning, calls), kind, answer.parse_failures


@pytest.mark.parametrize(
    "text",
    [
        f"<tool_call>{WHOLE}</tool_call>" * 2000,
        "<tool_call>{" * 2000,
        ARGUMENTS + '["a" ' * 5000 + "</tool_call>after",
        ARGUMENTS + '"' + 'a"<' * 5000 + "</tool_call>after",
        VALUE + "a=1," * 5000 + "}}</tool_call>after",
        "<tool_call>{" + '"x":1,' * 5000 + "</tool_call>",
    ],
)
def test_patience_runs_out_at_one_place(text: str) -> None:
    style = AnswerStyle(speech=HERMES, tools=TOOLS)
    whole = read(style, text, len(text))
    assert all(read(style, text, piece) == whole for piece in (1, 7, 300))


def test_lumps_end_with_the_answer() -> None:
    style = AnswerStyle(speech=HERMES, tools=TOOLS)
    text = "words " * 1000 + ARGUMENTS + '{{"a" :: 1}</tool_call> and more'
    for end in range(6000, len(text) + 1):
        assert read(style, text[:end], 7, "length") == read(style, text[:end], SIZE, "length")


def test_what_patience_ran_out_on_stays_in_the_text() -> None:
    call = f"<tool_call>{WHOLE}</tool_call>"
    style = AnswerStyle(speech=HERMES, tools=TOOLS)
    collected, kind, failures = read(style, call * PATIENCE, SIZE)
    count = len(collected.calls)
    assert kind == "tool_calls"
    assert failures > 0
    assert 512 < count < PATIENCE // CALL_COST
    assert collected.text == call * (PATIENCE - count)
