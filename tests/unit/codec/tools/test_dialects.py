"""Which parser a chat template asks for."""

import pytest

from opta_lmx.codec.tools.dialects import dialect_for_template, parser_for

HERMES = "{% if tools %}<tools>{{ tools }}</tools> answer in <tool_call> tags{% endif %}"
LLAMA = '{%- if tools is not none %}Answer with {"name": ..., "parameters": ...}{% endif %}'
PROSE = "{% for m in messages %}{{ m.content }}{% endfor %} Use your tools well."


@pytest.mark.parametrize(
    ("source", "dialect"),
    [(HERMES, "hermes"), (LLAMA, "json"), (PROSE, "hermes"), ("", "hermes"), ("{{tools}}", "json")],
)
def test_the_template_decides(source: str, dialect: str) -> None:
    assert dialect_for_template(source) == dialect
    assert parser_for(dialect).parse_failures == 0


def test_a_template_of_nothing_but_openings_is_judged_quickly() -> None:
    assert dialect_for_template("{%" * 500_000) == "hermes"


def test_an_unknown_dialect_is_an_error() -> None:
    with pytest.raises(ValueError, match="klingon"):
        parser_for("klingon")
