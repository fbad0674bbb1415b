"""Ollama's errors: one text, with the HTTP status beside it or, within a stream, in the line."""

import msgspec

from opta_lmx.api.errors import STATUS, headers
from opta_lmx.core.errors import LmxError

_ENCODER = msgspec.json.Encoder()


def render(error: LmxError) -> tuple[int, dict[str, str], bytes]:
    """Return status, extra headers (without the content type) and the JSON body."""
    return STATUS[error.kind], headers(error), _ENCODER.encode({"error": error.message})


def stream_line(error: LmxError) -> bytes:
    """The line that ends a stream; clients that read `status` retry by it."""
    body = {"error": error.message, "status": STATUS[error.kind]}
    return _ENCODER.encode(body) + b"\n"
