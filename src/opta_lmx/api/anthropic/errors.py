"""Anthropic's error envelope: status, headers and body for every kind of error."""

from typing import Literal

import msgspec
import structlog

from opta_lmx.api.errors import STATUS, headers, retry_seconds
from opta_lmx.codec.limits import ContextLengthError
from opta_lmx.core.errors import ErrorKind, LmxError

REQUEST_ID_HEADER = "request-id"

_OVERLOADED = 529
_STATUS: dict[ErrorKind, int] = {
    ErrorKind.UNAVAILABLE: _OVERLOADED,
    ErrorKind.INSUFFICIENT_RESOURCES: _OVERLOADED,
    ErrorKind.UPSTREAM_FAILED: 500,
}
_TYPES: dict[ErrorKind, str] = {
    ErrorKind.PAYLOAD_TOO_LARGE: "request_too_large",
    ErrorKind.REQUEST_TIMEOUT: "timeout_error",
    ErrorKind.UNAUTHENTICATED: "authentication_error",
    ErrorKind.FORBIDDEN: "permission_error",
    ErrorKind.NOT_FOUND: "not_found_error",
    ErrorKind.MODEL_NOT_FOUND: "not_found_error",
    ErrorKind.RATE_LIMITED: "rate_limit_error",
    ErrorKind.UNAVAILABLE: "overloaded_error",
    ErrorKind.INSUFFICIENT_RESOURCES: "overloaded_error",
    ErrorKind.UPSTREAM_FAILED: "api_error",
    ErrorKind.INTERNAL: "api_error",
}
# Inside a stream OpenClaw reads an error's words only, and retries on these two and no others.
_STREAM_WORDS: dict[ErrorKind, str] = {
    ErrorKind.RATE_LIMITED: "Overloaded",
    ErrorKind.UNAVAILABLE: "Overloaded",
    ErrorKind.INSUFFICIENT_RESOURCES: "Overloaded",
    ErrorKind.REQUEST_TIMEOUT: "Internal server error",
    ErrorKind.UPSTREAM_FAILED: "Internal server error",
    ErrorKind.INTERNAL: "Internal server error",
}
_ENCODER = msgspec.json.Encoder()


class _Error(msgspec.Struct, omit_defaults=True):
    type: str
    message: str
    retry_after: int | None = None
    details: dict[str, str] | None = None


class _Envelope(msgspec.Struct):
    type: Literal["error"]
    error: _Error
    request_id: str | None


def request_headers() -> dict[str, str]:
    """The id of the request being answered, under the name Anthropic's clients look for."""
    request_id = _request_id()
    return {} if request_id is None else {REQUEST_ID_HEADER: request_id}


def render(error: LmxError) -> tuple[int, dict[str, str], bytes]:
    """Return status, extra headers (without the content type) and the JSON body.

    429 and 529 for a wait say when to come back, as `Retry-After` and `error.retry_after`.
    """
    status = _STATUS.get(error.kind) or STATUS[error.kind]
    body = _body(error, _words(error), retry_seconds(error))
    return status, {**headers(error), **request_headers()}, body


def stream_body(error: LmxError) -> bytes:
    """Return the JSON of an error that ends a stream, in words its client retries on."""
    words = _words(error)
    call = _STREAM_WORDS.get(error.kind)
    return _body(error, words if call is None else f"{call}: {words}", None)


def _body(error: LmxError, message: str, seconds: int | None) -> bytes:
    kind = _TYPES.get(error.kind, "invalid_request_error")
    told = _Error(kind, message, seconds, _details(error))
    return _ENCODER.encode(_Envelope("error", told, _request_id()))


def _details(error: LmxError) -> dict[str, str] | None:
    """Without these, the SDK's tool runner gives up instead of sending the whole history."""
    if error.kind is ErrorKind.UNSUPPORTED_PARAMETER and (error.param or "") == "thread":
        return {"error_code": "thread_unsupported_request"}
    return None


def _words(error: LmxError) -> str:
    """The message; it names the parameter, because the envelope has no other place for it."""
    if isinstance(error, ContextLengthError):
        # A prompt that fills the window to the last token leaves no room for an answer.
        asked = max(error.prompt_tokens, error.limit + 1)
        least = "" if error.exact else "at least "
        return f"prompt is too long: {least}{asked} tokens > {error.limit} maximum"
    if error.param and error.param not in error.message:
        return f"{error.param}: {error.message}"
    return error.message


def _request_id() -> str | None:
    return structlog.contextvars.get_contextvars().get("request_id")
