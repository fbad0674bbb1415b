"""Which parser a chat template asks for, and what users may choose."""

import pytest

from opta_lmx.codec.tools.dialects import (
    TOOL_DIALECTS,
    check_speech,
    dialect_for_template,
    markers_of,
    parser_for,
    speech_for_template,
)
from opta_lmx.core.types import Speech

HERMES = "{% if tools %}<tools>{{ tools }}</tools> answer in <tool_call> tags{% endif %}"
GENERIC = '{%- if tools is not none %}Answer with {"name": ..., "parameters": ...}{% endif %}'
PROSE = "{% for m in messages %}{{ m.content }}{% endfor %} Use your tools well."


@pytest.mark.parametrize(
    ("source", "dialect"),
    [
        (HERMES, "hermes"),
        (GENERIC, "json"),
        (PROSE, "hermes"),
        ("", "hermes"),
        ("{{tools}}", "json"),
        ("{{tools}}<tool_call><arg_key>", "glm"),
        ("{{tools}}<tool_call><function=f>", "qwen3-coder"),
        ("{{tools}}[TOOL_CALLS]", "mistral"),
        ("<start_of_turn>", "gemma3"),
    ],
)
def test_the_template_decides(source: str, dialect: str) -> None:
    assert dialect_for_template(source) == dialect
    assert parser_for(dialect).parse_failures == 0


@pytest.mark.parametrize(
    ("source", "tokens", "speech"),
    [
        ("{{tools}}<tool_call>{{x.split('</think>')}}", (), Speech("hermes", "think")),
        ("{{tools}}<|channel|>analysis", (), Speech("harmony", "harmony")),
        ("{{tools}}[TOOL_CALLS][THINK]", (), Speech("mistral", "mistral")),
        ("{{x}}", ("<think>", "</think>"), Speech("hermes", "think")),
        ("{{x}}", ("<think>",), Speech("hermes", "")),
    ],
)
def test_speech(source: str, tokens: tuple[str, ...], speech: Speech) -> None:
    assert speech_for_template(source, tokens.__contains__) == speech


def test_a_template_of_nothing_but_openings_is_judged_quickly() -> None:
    assert dialect_for_template("{%" * 500_000) == "hermes"


def test_unknown_names_are_errors_that_list_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"klingon.*hermes"):
        parser_for("klingon")
    with pytest.raises(ValueError, match=r"deep.*think"):
        check_speech(Speech("json", "deep"))


@pytest.mark.parametrize("dialect", sorted(TOOL_DIALECTS))
def test_no_mark_begins_another(dialect: str) -> None:
    marks = markers_of(Speech(dialect, ""))
    assert [(a, b) for a in marks for b in marks if a != b and b.startswith(a)] == []


def test_engines_learn_which_control_tokens_to_keep() -> None:
    assert {"<tool_call>", "</tool_call>", "<think>", "</think>"} <= set(
        markers_of(Speech("hermes", "think"))
    )
    assert "<|channel|>" in markers_of(Speech("harmony", "harmony"))
    assert {"<|channel>", '<|"|>'} <= set(markers_of(Speech("gemma4", "gemma")))
