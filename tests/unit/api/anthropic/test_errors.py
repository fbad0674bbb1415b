"""Anthropic's envelope: status, type, words and when to come back, for every kind of error."""

import json

import pytest
import structlog

from opta_lmx.api.anthropic.errors import render
from opta_lmx.codec.limits import context_exceeded
from opta_lmx.core.errors import ErrorKind, LmxError

TABLE: dict[ErrorKind, tuple[int, str]] = {
    ErrorKind.INVALID_REQUEST: (400, "invalid_request_error"),
    ErrorKind.UNSUPPORTED_PARAMETER: (400, "invalid_request_error"),
    ErrorKind.CONTEXT_LENGTH_EXCEEDED: (400, "invalid_request_error"),
    ErrorKind.PAYLOAD_TOO_LARGE: (413, "request_too_large"),
    ErrorKind.REQUEST_TIMEOUT: (408, "timeout_error"),
    ErrorKind.UNAUTHENTICATED: (401, "authentication_error"),
    ErrorKind.FORBIDDEN: (403, "permission_error"),
    ErrorKind.NOT_FOUND: (404, "not_found_error"),
    ErrorKind.MODEL_NOT_FOUND: (404, "not_found_error"),
    ErrorKind.CONFLICT: (409, "invalid_request_error"),
    ErrorKind.RATE_LIMITED: (429, "rate_limit_error"),
    ErrorKind.UNAVAILABLE: (529, "overloaded_error"),
    ErrorKind.INSUFFICIENT_RESOURCES: (529, "overloaded_error"),
    ErrorKind.UPSTREAM_FAILED: (500, "api_error"),
    ErrorKind.INTERNAL: (500, "api_error"),
}


def test_the_table_is_complete() -> None:
    assert TABLE.keys() == set(ErrorKind)


@pytest.mark.parametrize("kind", list(ErrorKind))
def test_every_kind(kind: ErrorKind) -> None:
    with structlog.contextvars.bound_contextvars(request_id="req-7"):
        status, headers, body = render(LmxError(kind, "No.", retry_after=2.2))
    decoded = json.loads(body)
    wanted_status, wanted_type = TABLE[kind]
    assert status == wanted_status
    assert decoded["type"] == "error"
    assert decoded["request_id"] == headers["request-id"] == "req-7"
    assert decoded["error"]["type"] == wanted_type
    assert decoded["error"]["message"] == "No."
    waits = kind in (ErrorKind.RATE_LIMITED, ErrorKind.UNAVAILABLE)
    assert headers.get("Retry-After") == ("3" if waits else None)
    assert decoded["error"].get("retry_after") == (3 if waits else None)


def test_the_parameter_is_named_in_the_message() -> None:
    _, headers, body = render(LmxError(ErrorKind.INVALID_REQUEST, "Too big.", param="top_k"))
    assert json.loads(body)["error"]["message"] == "top_k: Too big."
    assert "request-id" not in headers
    said = LmxError(ErrorKind.INVALID_REQUEST, "'top_k' is too big.", param="top_k")
    assert json.loads(render(said)[2])["error"]["message"] == "'top_k' is too big."


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (context_exceeded(100, 250, 10), "prompt is too long: 250 tokens > 100 maximum"),
        (context_exceeded(100, 100, 10), "prompt is too long: 101 tokens > 100 maximum"),
        (
            context_exceeded(100, 250, 10, exact=False),
            "prompt is too long: at least 250 tokens > 100 maximum",
        ),
    ],
)
def test_overflow_is_told_in_anthropics_words(error: LmxError, words: str) -> None:
    assert json.loads(render(error)[2])["error"]["message"] == words
