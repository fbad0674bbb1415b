"""Styles of reasoning: which one a template speaks, and whether a prompt leaves a block open."""

import pytest

from opta_lmx.codec.answer import Answer, AnswerStyle
from opta_lmx.codec.deltas import collect
from opta_lmx.codec.reasoning import (
    HARMONY,
    REASONING_STYLES,
    ends_thinking,
    style_for_template,
    think_marks,
)
from opta_lmx.core.types import Speech

STYLES = sorted(REASONING_STYLES - {"", HARMONY})


@pytest.mark.parametrize("style", STYLES)
def test_every_style_is_found_split_and_left_out_of_the_text(style: str) -> None:
    marks = think_marks(style)
    assert marks is not None
    opens, closes = marks.opens[0], marks.closes[0]
    assert style_for_template(f"{{{{ '{opens}' + x + '{closes}' }}}}", lambda _: False) == style
    text = f"{opens}\nOne thing.\n{closes}\n\nAnother."
    for cut in range(len(text)):
        answer = Answer(AnswerStyle(speech=Speech("json", style)))
        deltas = answer.feed(text[:cut].encode()) + answer.feed(text[cut:].encode())
        rest, finish = answer.finish("stop")
        got = collect([*deltas, *rest])
        assert (got.reasoning, got.text, finish) == ("One thing.", "Another.", "stop")


@pytest.mark.parametrize("style", STYLES)
def test_a_prompt_may_end_inside_a_block(style: str) -> None:
    marks = think_marks(style)
    assert marks is not None
    opens, closes = marks.opens[0], marks.closes[0]
    assert ends_thinking(f"question{opens}\n", style)
    assert not ends_thinking(f"question{opens}\n\n{closes}\n", style)
    assert not ends_thinking(f"What does {opens} mean?", style)
    assert not ends_thinking("", style)


def test_without_marks_no_prompt_thinks() -> None:
    assert not ends_thinking("<think>\n", "")
    assert not ends_thinking("<|channel|>analysis<|message|>", HARMONY)


def test_an_unknown_style_is_an_error() -> None:
    with pytest.raises(ValueError, match="aloud"):
        think_marks("aloud")
