"""Server-sent events as bytes."""

import msgspec

_ENCODER = msgspec.json.Encoder()
# Characters that JSON allows raw but some clients' line splitters take for line ends.
_LINE_ENDS = (
    (b"\xc2\x85", b"\\u0085"),
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
)


def encode(value: object) -> bytes:
    """Return JSON without line ends of any alphabet."""
    encoded = _ENCODER.encode(value)
    if not encoded.isascii():
        for raw, escaped in _LINE_ENDS:
            encoded = encoded.replace(raw, escaped)
    return encoded


def event(name: str, data: bytes) -> bytes:
    """Return one named event; `data` is on one line."""
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"
