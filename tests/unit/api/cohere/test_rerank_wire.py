"""Rerank requests on the wire, in both forms."""

from typing import Any

import pytest

from opta_lmx.api.cohere.errors import render
from opta_lmx.api.cohere.wire import MAX_DOCUMENTS, parse_v1, parse_v2
from opta_lmx.core.errors import ErrorKind, LmxError

BASE: dict[str, Any] = {"model": "m", "query": "q", "documents": ["a", "b"]}


@pytest.mark.parametrize("parse", [parse_v1, parse_v2])
def test_the_plain_request(parse: Any) -> None:
    call = parse(BASE)
    assert call.request.documents == ("a", "b")
    assert call.request.cut_to is None
    assert (call.top_n, call.return_documents) == (2, False)


def test_documents_as_objects_and_options() -> None:
    call = parse_v1(
        BASE
        | {
            "documents": ["a", {"text": "b"}],
            "top_n": 1,
            "return_documents": True,
            "max_tokens_per_doc": 7,
            "rank_fields": ["text"],
            "max_chunks_per_doc": 1,
        }
    )
    assert call.request.documents == ("a", "b")
    assert call.request.cut_to == 7
    assert (call.top_n, call.return_documents) == (1, True)
    neutral = {"priority": 0, "relevant_spans": {"mode": "disabled"}, "max_tokens_per_doc": 9}
    assert parse_v2(BASE | neutral).request.cut_to == 9


@pytest.mark.parametrize(
    ("parse", "fields", "param"),
    [
        (parse_v1, {"query": ""}, "query"),
        (parse_v1, {"documents": []}, "documents"),
        (parse_v1, {"documents": ["x"] * (MAX_DOCUMENTS + 1)}, "documents"),
        (parse_v1, {"top_n": 0}, "top_n"),
        (parse_v1, {"rank_fields": ["title"]}, "rank_fields"),
        (parse_v1, {"max_chunks_per_doc": 10}, "max_chunks_per_doc"),
        (parse_v1, {"texts": ["x"]}, "texts"),
        (parse_v2, {"documents": ["a", ""]}, "documents.1"),
        (parse_v2, {"documents": ["a", {"text": "b"}]}, "documents.1"),
        (parse_v2, {"return_documents": True}, "return_documents"),
        (parse_v2, {"priority": 5}, "priority"),
        (parse_v2, {"relevant_spans": {"mode": "enabled"}}, "relevant_spans"),
        (parse_v2, {"max_tokens_per_doc": 0}, "max_tokens_per_doc"),
    ],
)
def test_faults_are_named(parse: Any, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(LmxError) as caught:
        parse(BASE | fields)
    assert caught.value.param == param


def test_documents_that_are_neither_text_nor_object_are_named() -> None:
    with pytest.raises(LmxError) as caught:
        parse_v1(BASE | {"documents": ["a", 5]})
    assert (caught.value.param or "").startswith("documents.1")


def test_errors_say_when_to_come_back() -> None:
    full = LmxError(ErrorKind.RATE_LIMITED, "Full.", code="queue_full", retry_after=2.2)
    status, headers, body = render(full)
    assert (status, headers["Retry-After"]) == (429, "3")
    assert body.startswith(b'{"message":"Full."')
    assert body.endswith(b'"retry_after":3}')
