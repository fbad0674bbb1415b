"""What cannot be held is refused in words of our own, never in those of the grammar library."""

import re
from typing import Any

import pytest

from opta_lmx.backends.compiling import UNUSABLE
from opta_lmx.backends.gguf.following import GrammarFollower
from opta_lmx.codec.constraints import answer_grammar, check, schema
from opta_lmx.codec.constraints.calls import FORMS
from opta_lmx.core.errors import LmxError
from opta_lmx.core.types import GenerationRequest, JsonOutput, Prompt, Speech, Tool, ToolChoice
from tests.unit.codec.constraints.test_refusals import bombs

_LIBRARYS = re.compile(
    r"panic|assertion|[Uu]nsatisfiable|Pointer|Anchor|[Ff]uel|lexe|[Rr]egex\b|RegexBuilder|"
    r"Some\(|coerce|json-schema:|Unimplemented|error:"
)


@pytest.mark.parametrize("dialect", FORMS)
def test_what_only_the_whole_grammar_shows(dialect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library judges a schema by itself; only as part of a grammar it proves too large."""
    monkeypatch.setattr(schema, "MOST_MULTIPLES", 10**12)
    number = {"type": "integer", "multipleOf": 999_999_893}
    tools = (Tool("t", "", {"type": "object", "properties": {"a": number}, "required": ["a"]}),)
    request = GenerationRequest("m", Prompt(tools=tools), tool_choice=ToolChoice("required"))
    check(request, output="o", tools="tools")
    grammar = answer_grammar(request, Speech(dialect), thinking=False)
    assert grammar is not None
    assert GrammarFollower(grammar).error == f"the grammar cannot be used: {UNUSABLE}"


REFUSED: list[Any] = [
    *({"pattern": pattern} for pattern in ("(", "(?=a)b", r"(a)\1", "a{9", "[b-a]", "(?<n>a")),
    *({"$ref": where} for where in ("#/$defs/missing", "#nowhere", "#/a/0")),
    {"type": "integer", "multipleOf": 0},
    {"type": "integer", "minimum": 5, "maximum": 4},
    {"allOf": [{"type": "string"}, {"type": "number"}]},
    {"oneOf": [{"type": "integer"}, {"type": "number"}]},
    {"patternProperties": {"^a": {}, "^ab": {"type": "null"}}},
    {"properties": {"a": {}, "b": {}}, "minProperties": 1},
    {"$ref": "#/$defs/s", "$defs": {"s": {"type": "string", "anyOf": [{"$ref": "#/$defs/s"}]}}},
]


def test_refusals_are_in_words_of_our_own() -> None:
    refused: list[str] = []
    for bad in (*REFUSED, *bombs()):
        request = GenerationRequest("m", Prompt(), output=JsonOutput(bad))
        try:
            check(request, output="o", tools="tools")
        except LmxError as error:
            refused.append(error.message)
    assert len(refused) >= len(REFUSED)
    assert [message for message in refused if _LIBRARYS.search(message)] == []
