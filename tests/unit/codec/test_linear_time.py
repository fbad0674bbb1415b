"""A hostile or confused model cannot make the splitter slow: cost grows with the length."""

import time

import pytest

from opta_lmx.codec.answer import Answer, AnswerStyle
from opta_lmx.codec.tools.dialects import TOOL_DIALECTS, markers_of
from opta_lmx.core.types import Speech, Tool

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
