"""One envelope for every kind of error."""

import json

import pytest

from opta_lmx.api.errors import STATUS
from opta_lmx.api.openai.errors import render
from opta_lmx.codec.limits import context_exceeded
from opta_lmx.core.errors import ErrorKind, LmxError, invalid


@pytest.mark.parametrize("kind", list(ErrorKind))
def test_every_kind_has_its_status_and_envelope(kind: ErrorKind) -> None:
    status, headers, body = render(LmxError(kind, "It failed.", param="a.0.b"))
    error = json.loads(body)["error"]
    assert status == STATUS[kind]
    assert 400 <= status < 600
    assert (error["message"], error["param"], error["code"]) == ("It failed.", "a.0.b", kind.value)
    assert (error["type"] == "invalid_request_error") == (status in {400, 404, 408, 409, 413})
    assert ("Retry-After" in headers) == (status in {429, 503})


@pytest.mark.parametrize("kind", [ErrorKind.RATE_LIMITED, ErrorKind.UNAVAILABLE])
@pytest.mark.parametrize(("said", "seconds"), [(None, 1), (0.0, 1), (0.2, 1), (6.1, 7), (60, 60)])
def test_when_to_come_back_is_said_three_times(
    kind: ErrorKind, said: float | None, seconds: int
) -> None:
    _, headers, body = render(LmxError(kind, "Full.", retry_after=said))
    data = json.loads(body)
    assert headers["Retry-After"] == str(seconds)
    assert data["retry_after"] == data["error"]["retry_after"] == seconds


def test_absent_param_is_null_and_nothing_is_said_about_retrying() -> None:
    _, headers, body = render(invalid("No.", code="invalid_json"))
    assert headers == {}
    assert json.loads(body) == {
        "error": {
            "message": "No.",
            "type": "invalid_request_error",
            "param": None,
            "code": "invalid_json",
        }
    }


def test_a_missing_key_says_how_to_authenticate() -> None:
    status, headers, body = render(LmxError(ErrorKind.UNAUTHENTICATED, "No key."))
    assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
    assert json.loads(body)["error"]["type"] == "authentication_error"


def test_an_overflow_keeps_its_wording() -> None:
    status, _, body = render(context_exceeded(100, 90, 20))
    error = json.loads(body)["error"]
    assert (status, error["code"]) == (400, "context_length_exceeded")
    assert "maximum context length is 100 tokens" in error["message"]
