"""OpenAI's error envelope: status, headers and body for every kind of error."""

import msgspec

from opta_lmx.api.errors import STATUS, headers, retry_seconds
from opta_lmx.core.errors import ErrorKind, LmxError

_TYPES: dict[ErrorKind, str] = {
    ErrorKind.UNAUTHENTICATED: "authentication_error",
    ErrorKind.FORBIDDEN: "permission_error",
    ErrorKind.RATE_LIMITED: "rate_limit_error",
    ErrorKind.UNAVAILABLE: "overloaded_error",
    ErrorKind.INSUFFICIENT_RESOURCES: "server_error",
    ErrorKind.UPSTREAM_FAILED: "server_error",
    ErrorKind.INTERNAL: "server_error",
}
# Inside a stream OpenClaw retries on these two words and on nothing else, so what may pass
# by itself must be called by one of them there.
_STREAM_TYPES: dict[ErrorKind, str] = {
    ErrorKind.RATE_LIMITED: "overloaded_error",
    ErrorKind.INSUFFICIENT_RESOURCES: "overloaded_error",
    ErrorKind.REQUEST_TIMEOUT: "server_error",
}
_ENCODER = msgspec.json.Encoder()


class _Error(msgspec.Struct, omit_defaults=True):
    message: str
    type: str
    param: str | None
    code: str | None
    retry_after: int | None = None


class _Envelope(msgspec.Struct, omit_defaults=True):
    error: _Error
    retry_after: int | None = None


def render(error: LmxError) -> tuple[int, dict[str, str], bytes]:
    """Return status, extra headers (without the content type) and the JSON body.

    429 and 503 always say when to come back, in whole seconds of at least one: as
    `Retry-After`, as `error.retry_after` and as `retry_after`.
    """
    seconds = retry_seconds(error)
    kind = _TYPES.get(error.kind, "invalid_request_error")
    inner = _Error(error.message, kind, error.param, error.code, seconds)
    return STATUS[error.kind], headers(error), _ENCODER.encode(_Envelope(inner, seconds))


def stream_body(error: LmxError) -> bytes:
    """Return the JSON of an error that ends a stream, with the type its client retries on."""
    kind = _STREAM_TYPES.get(error.kind) or _TYPES.get(error.kind, "invalid_request_error")
    return _ENCODER.encode(_Envelope(_Error(error.message, kind, error.param, error.code)))
