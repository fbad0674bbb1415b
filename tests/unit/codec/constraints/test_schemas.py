"""Whatever a grammar lets through validates: walks at random, judged by a validator."""

import json
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from opta_lmx.codec.constraints import answer_grammar, check
from opta_lmx.core.errors import LmxError
from opta_lmx.core.types import GenerationRequest, JsonOutput, Prompt, Speech
from tests.unit.codec.constraints.schemas import SCHEMAS
from tests.unit.codec.constraints.walking import accepts, walk


def grammar_of(schema: dict[str, Any] | bool | None) -> str:
    request = GenerationRequest(model="m", prompt=Prompt(), output=JsonOutput(schema))
    check(request, output="schema", tools="tools")
    grammar = answer_grammar(request, Speech(), thinking=False)
    assert grammar is not None
    return grammar


@pytest.mark.parametrize("name", SCHEMAS)
def test_walks_validate(name: str) -> None:
    grammar, validator = grammar_of(SCHEMAS[name]), jsonschema_rs.validator_for(SCHEMAS[name])
    answers = [answer for seed in range(12) if (answer := walk(grammar, seed)) is not None]
    assert len(answers) >= 6
    for answer in answers:
        validator.validate(json.loads(answer))


def test_any_object() -> None:
    grammar = grammar_of(None)
    assert accepts(grammar, '{"a": [1, {"b": null}], "c": ""}')
    assert not accepts(grammar, "[1]")
    assert not accepts(grammar, '{"a": 1}\n')


@pytest.mark.parametrize("blank", [" ", "\n", "\t"])
def test_blanks_cannot_go_on_for_ever(blank: str) -> None:
    grammar = grammar_of({"type": "object"})
    for text in ('{"a":%s1}', '{"a": 1,%s"b": 2}', '{%s"a": 1}', '%s{"a": 1}'):
        assert not accepts(grammar, text % (blank * 2))


def test_objects_that_list_their_keys_are_closed() -> None:
    listed = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    assert not accepts(grammar_of(listed), '{"a": 1, "b": 2}')
    assert accepts(grammar_of({**listed, "additionalProperties": True}), '{"a": 1, "b": 2}')
    merged = {"allOf": [listed, {"properties": {"b": {"const": 2}}, "required": ["b"]}]}
    assert accepts(grammar_of(merged), '{"a": 1, "b": 2}')


_LEAVES = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(
        lambda low, span: {"type": "integer", "minimum": low, "maximum": low + span},
        st.integers(-1000, 1000),
        st.integers(0, 50),
    ),
    st.builds(
        lambda low, span: {"type": "string", "minLength": low, "maxLength": low + span},
        st.integers(0, 3),
        st.integers(0, 4),
    ),
    st.lists(
        st.one_of(st.text(max_size=4), st.integers(-99, 99), st.booleans(), st.none()),
        min_size=1,
        max_size=3,
    ).map(lambda values: {"enum": values}),
    st.sampled_from(["date", "uuid", "ipv4"]).map(lambda f: {"type": "string", "format": f}),
    st.sampled_from([r"^\d+$", r"^[a-c]{1,3}$", r"^(ab|c)\s?$"]).map(
        lambda pattern: {"type": "string", "pattern": pattern, "maxLength": 6}
    ),
)
_NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=4)


def _larger(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        st.builds(
            lambda members, closed: {
                "type": "object",
                "properties": members,
                "required": [name for at, name in enumerate(members) if at % 2 == 0],
                **({"additionalProperties": False} if closed else {}),
            },
            st.dictionaries(_NAMES, inner, min_size=1, max_size=3),
            st.booleans(),
        ),
        st.builds(
            lambda items, most: {"type": "array", "items": items, "maxItems": most},
            inner,
            st.integers(0, 2),
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda members: {"anyOf": members}),
        st.lists(inner, min_size=1, max_size=2).map(lambda members: {"allOf": members}),
        st.builds(
            lambda inner, items: {
                "$defs": {"d": inner},
                "type": "array",
                "prefixItems": [items],
                "items": {"$ref": "#/$defs/d"},
                "maxItems": 2,
            },
            inner,
            inner,
        ),
    )


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.recursive(_LEAVES, _larger, max_leaves=6), st.integers(0, 2**32))
def test_walks_of_generated_schemas_validate(schema: dict[str, Any], seed: int) -> None:
    if "$defs" in json.dumps(schema) and "$defs" not in schema:
        assume(False)  # a nested definition is not found from the root
    try:
        grammar = grammar_of(schema)
    except LmxError:
        assert "allOf" in json.dumps(schema)  # its members may contradict each other
        assume(False)
        raise
    answer = walk(grammar, seed, longest=1500)
    assume(answer is not None)
    assert answer is not None
    assert jsonschema_rs.validator_for(schema).is_valid(json.loads(answer)), answer
