import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from scripts.openclaw.expected import known_requests
from scripts.openclaw.modes import MODES
from scripts.openclaw.traffic import Known, Seen, drift, seen, shape, shape_of

CALL = "POST /v1/chat/completions"
KNOWN = {CALL: Known(frozenset({"host"}), frozenset({"model"}), frozenset({"model.x"}))}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=20,
)


def request(headers: set[str], parts: set[str], call: str = CALL) -> Seen:
    return Seen(call, frozenset(headers), frozenset(parts))


def test_a_body_becomes_the_paths_of_its_keys() -> None:
    body = {
        "model": "m",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            {"role": "assistant", "content": None},
        ],
    }
    assert set(shape(body)) == {
        "model",
        "messages",
        "messages[].role=user",
        "messages[].role=assistant",
        "messages[].content",
        "messages[].content[].type=text",
        "messages[].content[].text",
    }


def test_what_a_tool_or_a_model_wrote_is_not_looked_into() -> None:
    body = {
        "input": [{"type": "function_call", "arguments": {"deep": 1}}],
        "tools": [{"parameters": {"type": "object"}}, {"input_schema": {"anyOf": []}}],
        "messages": [{"content": [{"type": "tool_use", "input": {"path": "x"}}]}],
    }
    parts = set(shape(body))
    assert "input[].type=function_call" in parts
    assert not any("deep" in part or "object" in part or "anyOf" in part for part in parts)
    assert not any("path" in part for part in parts)


def test_values_other_than_names_are_not_kept() -> None:
    text = json.dumps({"model": "secret", "metadata": {"user": "secret"}}).encode()
    assert shape_of(text) == {"model", "metadata"}
    assert shape_of(b"") == set()
    assert shape_of(b"no") == {"not JSON"}


@given(JSON)
def test_any_json_has_a_shape_and_repeating_an_item_changes_nothing(value: Any) -> None:
    assert set(shape([value, value])) == set(shape([value]))
    assert shape_of(json.dumps(value).encode()) == set(shape(value))


def test_header_names_are_lower_case_and_queries_are_cut_off() -> None:
    found = seen("GET", "/api/v1/models?x=1", [("Host", "a"), ("X-A", "b")], b"")
    assert found == Seen("GET /api/v1/models", frozenset({"host", "x-a"}), frozenset())


def test_what_is_known_is_no_drift() -> None:
    assert (
        drift([request({"host"}, {"model"}), request({"host"}, {"model", "model.x"})], KNOWN) == []
    )


def test_every_difference_is_said_once() -> None:
    strange = request({"host", "x-new"}, {"model", "messages[].new"})
    poor = request(set(), set())
    other = request({"host"}, set(), "GET /v2")
    assert drift([strange, strange, poor, other], KNOWN) == [
        f"{CALL}: new header x-new",
        f"{CALL}: new in the body: messages[].new",
        f"{CALL}: header host is not sent",
        f"{CALL}: not in the body: model",
        "GET /v2: a request not known before",
    ]


def test_each_mode_has_its_table() -> None:
    for mode in MODES:
        known = known_requests(mode.name)
        call = known[f"POST {mode.dialect.path}"]
        assert {"model", "stream", "tools"} <= call.keys
        assert {"host", "traceparent", "content-length"} <= call.headers
        assert all(name == name.lower() for name in call.headers)
