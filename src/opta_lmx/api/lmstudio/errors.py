"""LM Studio's error envelope: a broad type, the message, and where known code and parameter."""

import msgspec

from opta_lmx.api.errors import STATUS, headers, retry_seconds
from opta_lmx.core.errors import ErrorKind, LmxError

_INVALID = "invalid_request"
_TYPES: dict[ErrorKind, str] = {
    ErrorKind.MODEL_NOT_FOUND: "model_not_found",
    ErrorKind.RATE_LIMITED: "unknown",
    ErrorKind.UNAVAILABLE: "unknown",
    ErrorKind.INSUFFICIENT_RESOURCES: "internal_error",
    ErrorKind.UPSTREAM_FAILED: "internal_error",
    ErrorKind.INTERNAL: "internal_error",
}
_ENCODER = msgspec.json.Encoder()


class _Error(msgspec.Struct, omit_defaults=True):
    type: str
    message: str
    code: str | None = None
    param: str | None = None
    retry_after: int | None = None


class _Envelope(msgspec.Struct):
    error: _Error


def render(error: LmxError) -> tuple[int, dict[str, str], bytes]:
    """Return status, extra headers (without the content type) and the JSON body."""
    kind = _TYPES.get(error.kind, _INVALID)
    if error.code == "download_not_found":
        kind = "job_not_found"
    inner = _Error(kind, error.message, error.code, error.param, retry_seconds(error))
    return STATUS[error.kind], headers(error), _ENCODER.encode(_Envelope(inner))
