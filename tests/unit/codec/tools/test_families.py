"""Each parser on real material: what a family's published template writes, it reads back."""

import itertools
import json
import re

import pytest

from opta_lmx.backends.text.template import ChatTemplate
from opta_lmx.codec.answer import Answer, AnswerStyle
from opta_lmx.codec.deltas import Collected, Delta, collect
from opta_lmx.codec.reasoning import ends_thinking
from opta_lmx.codec.tools.dialects import TOOL_DIALECTS
from opta_lmx.core.types import Message, Speech, Tool, ToolCall
from tests.support.families import FAMILIES, VERIFIED, Family
from tests.support.templates import template

pytestmark = pytest.mark.network

TOOL = Tool(
    "get_weather",
    "Tell the weather.",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "options": {"type": "object"},
            "exact": {"type": "boolean"},
        },
    },
)
ARGUMENTS = {
    "city": 'Zürich "West",\n{<b>}',
    "days": 3,
    "options": {"units": ["°C", True], "deep": {"er": "x"}},
    "exact": False,
}
QUESTION = Message("user", "Weather?")
Final = tuple[str, list[tuple[str, object]], str, int]


def answer_of(family: Family, turn: Message) -> tuple[str, AnswerStyle]:
    """What the template writes for `turn` behind the prompt, and how to read it."""
    assert family.template is not None
    made = ChatTemplate.from_source(template(family.template), bos_token="", eos_token="</s>")
    prompt = made.render([QUESTION], [TOOL])
    whole = made.render([QUESTION, turn], [TOOL], add_generation_prompt=False)
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(prompt, whole, strict=False))
    begun = sum(1 for _ in same)
    if begun < len(prompt):  # they part within a mark
        begun = len(re.sub(r"<[^<>]*\Z", "", whole[:begun]))
    text, _, _ = whole[begun:].partition(family.ends)
    thinking = ends_thinking(whole[:begun], made.speech.reasoning)
    return text, AnswerStyle(speech=made.speech, tools=(TOOL,), thinking=thinking)


def read(pieces: list[bytes], style: AnswerStyle) -> tuple[Collected, str, int]:
    answer = Answer(style)
    deltas: list[Delta] = [delta for piece in pieces for delta in answer.feed(piece)]
    rest, finish = answer.finish("stop")
    return collect([*deltas, *rest]), finish, answer.parse_failures


def final(pieces: list[bytes], style: AnswerStyle) -> Final:
    got, finish, failures = read(pieces, style)
    calls: list[tuple[str, object]] = [(c.name, json.loads(c.arguments)) for c in got.calls]
    return got.text, calls, finish, failures


@pytest.mark.parametrize("family", VERIFIED, ids=lambda family: family.name)
def test_a_rendered_call_is_read_back_at_every_split(family: Family) -> None:
    call = ToolCall(family.call_id, TOOL.name, json.dumps(ARGUMENTS, ensure_ascii=False))
    turn = Message("assistant", tool_calls=(call,) * family.calls)
    text, style = answer_of(family, turn)
    assert style.speech == Speech(family.tools, family.reasoning)
    expected = ("", [(TOOL.name, ARGUMENTS)] * family.calls, "tool_calls", 0)
    data = text.encode()
    assert final([data], style) == expected
    for cut in range(1, len(data)):
        assert final([data[:cut], data[cut:]], style) == expected
    assert final([data[i : i + 1] for i in range(len(data))], style) == expected


@pytest.mark.parametrize("family", VERIFIED, ids=lambda family: family.name)
def test_cut_anywhere_what_was_shown_is_a_beginning(family: Family) -> None:
    call = ToolCall(family.call_id, TOOL.name, json.dumps(ARGUMENTS, ensure_ascii=False))
    text, style = answer_of(family, Message("assistant", tool_calls=(call,)))
    (whole,) = read([text.encode()], style)[0].calls
    for cut in range(len(text)):
        answer = Answer(style)
        deltas = answer.feed(text[:cut].encode())
        rest, finish = answer.finish("length")
        for got in collect([*deltas, *rest]).calls:
            assert whole.arguments.startswith(got.arguments)
            assert (got.arguments == whole.arguments) or finish == "length"


RENDERED_THOUGHTS = (
    *("Qwen 3", "Qwen 3.5", "GLM 4.6", "GLM 4.7", "Kimi K2 Thinking", "gpt-oss"),
    *("MiniMax M2", "Seed OSS", "Step 3.7", "Nemotron 3"),
)


@pytest.mark.parametrize("name", RENDERED_THOUGHTS)
def test_replayed_reasoning_is_rendered_and_read_back(name: str) -> None:
    (family,) = (family for family in VERIFIED if family.name == name)
    call = ToolCall(family.call_id, TOOL.name, json.dumps(ARGUMENTS))
    turn = Message("assistant", reasoning="I wonder.\nOr not.", tool_calls=(call,))
    text, style = answer_of(family, turn)
    data = text.encode()
    for cut in range(len(data)):
        got, finish, failures = read([data[:cut], data[cut:]], style)
        assert (got.reasoning, got.text) == ("I wonder.\nOr not.", "")
        assert (len(got.calls), finish, failures) == (1, "tool_calls", 0)


def test_every_dialect_is_in_the_table() -> None:
    assert {family.tools for family in FAMILIES} == TOOL_DIALECTS
