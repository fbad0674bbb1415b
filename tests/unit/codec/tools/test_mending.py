"""Repairs of almost-JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.codec.tools.mending import MAX_DEPTH, mend


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('{"a":1}', ['{"a":1}']),
        ('{"a":[1,2,],}', ['{"a":[1,2]}']),
        ('{"a":[1,{"b":2', ['{"a":[1,{"b":2}]}']),
        ('{"a":[1}', ['{"a":[1]}']),
        ('{"a":1}}]', ['{"a":1}']),
        ('{"a":"x\ty\x01"}', ['{"a":"x\\ty\\u0001"}']),
        ('{"a":None,"b":False}', ['{"a":null,"b":false}']),
        ('```json\n{"a":1}\n```', ['{"a":1}']),
        ('{"a":1}, {"b":2};\n[3]', ['{"a":1}', '{"b":2}', "[3]"]),
        ("", []),
    ],
)
def test_small_flaws(text: str, values: list[str]) -> None:
    assert mend(text, may_close=True) == values


@pytest.mark.parametrize(
    "text",
    ['{"a":"b', '{"a":1} and more', "plain words", "}", '["a"', '"s"', "1"],
)
def test_beyond_repair(text: str) -> None:
    assert mend(text, may_close=False) is None


def test_depth_has_a_bound() -> None:
    assert mend("[" * MAX_DEPTH, may_close=True) == ["[" * MAX_DEPTH + "]" * MAX_DEPTH]
    assert mend("[" * (MAX_DEPTH + 1), may_close=True) is None


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=3), documents, max_size=3))
def test_sound_json_is_not_changed(document: dict[str, object]) -> None:
    text = json.dumps(document)
    assert mend(text, may_close=False) == [text]


@given(st.dictionaries(st.text(max_size=3), documents, max_size=3))
def test_missing_closers_at_the_end_are_supplied(document: dict[str, object]) -> None:
    text = json.dumps(document)
    cut = text.rstrip("]}")
    values = mend(cut, may_close=True)
    if cut.endswith('"') or not cut or cut[-1].isalnum():
        assert values is not None
        assert [json.loads(value) for value in values] == [document]
