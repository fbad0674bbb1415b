"""Cohere's error envelope: `message` at the top, and what else we know of the error beside it."""

import msgspec

from opta_lmx.api.errors import STATUS, headers, retry_seconds
from opta_lmx.core.errors import LmxError

_ENCODER = msgspec.json.Encoder()


class _Error(msgspec.Struct, omit_defaults=True):
    message: str
    type: str
    param: str | None
    code: str
    retry_after: int | None = None


class _Envelope(msgspec.Struct, omit_defaults=True):
    message: str
    error: _Error
    retry_after: int | None = None


def render(error: LmxError) -> tuple[int, dict[str, str], bytes]:
    """Return status, extra headers (without the content type) and the JSON body."""
    seconds = retry_seconds(error)
    inner = _Error(error.message, error.kind.value, error.param, error.code, seconds)
    body = _ENCODER.encode(_Envelope(error.message, inner, seconds))
    return STATUS[error.kind], headers(error), body
