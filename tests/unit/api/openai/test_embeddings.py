"""The embeddings request on the wire: every shape of input, every fault by its place."""

from typing import Any

import pytest

from opta_lmx.api.openai.embeddings import MAX_INPUTS, parse_embeddings
from opta_lmx.core.errors import ErrorKind, LmxError


def parse(**fields: Any) -> Any:
    return parse_embeddings({"model": "m", **fields})


@pytest.mark.parametrize(
    ("value", "inputs", "places"),
    [
        ("text", ("text",), ["input"]),
        (["a", "b"], ("a", "b"), ["input.0", "input.1"]),
        ([1, 2, 3], ((1, 2, 3),), ["input"]),
        ([[1, 2], [3]], ((1, 2), (3,)), ["input.0", "input.1"]),
        (["a"] * MAX_INPUTS, ("a",) * MAX_INPUTS, ["input.0"]),
        ([7] * 5000, ((7,) * 5000,), ["input"]),
    ],
)
def test_inputs(value: object, inputs: tuple[object, ...], places: list[str]) -> None:
    request = parse(input=value).request
    assert request.inputs == inputs
    assert [request.place(index) for index in range(len(places))] == places
    assert request.cut_to is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"input": 5}, "input"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": ["a", ""]}, "input.1"),
        ({"input": ["a", 5]}, "input.1"),
        ({"input": ["a", [5]]}, "input.1"),
        ({"input": [[5], "a"]}, "input.1"),
        ({"input": [[5], []]}, "input.1"),
        ({"input": [[5], [6, -1]]}, "input.1"),
        ({"input": [5, "a"]}, "input"),
        ({"input": [5, True]}, "input"),
        ({"input": [True]}, "input.0"),
        ({"input": [2**31]}, "input"),
        ({"input": ["a"] * (MAX_INPUTS + 1)}, "input"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": 1.5}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "user": "u" * 513}, "user"),
        ({"input": "a", "truncate": True}, "truncate"),
        ({"input": "a", "model": ""}, "model"),
    ],
)
def test_faults_are_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(LmxError) as caught:
        parse(**fields)
    assert caught.value.param == param
    assert caught.value.kind in (ErrorKind.INVALID_REQUEST, ErrorKind.UNSUPPORTED_PARAMETER)


def test_options() -> None:
    call = parse(input="a", encoding_format="base64", dimensions=64, user="u")
    assert call.base64
    assert call.request.dimensions == 64
    assert not parse(input="a").base64
    assert not parse(input="a", encoding_format=None, dimensions=None, user=None).base64
