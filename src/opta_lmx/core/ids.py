"""Identifiers: alphanumeric where clients rewrite anything else, UUIDv7 where things are stored."""

import secrets
import string

_ALPHANUMERIC = string.ascii_letters + string.digits
_COUNT = len(_ALPHANUMERIC)
_FAIR = 256 - 256 % _COUNT


def random_id(prefix: str = "", length: int = 24) -> str:
    """Return `prefix` plus `length` random characters of `[A-Za-z0-9]`."""
    chars: list[str] = []
    while len(chars) < length:
        # Bytes at the top of the range are left out: they would make some characters likelier.
        drawn = secrets.token_bytes(length)
        chars += [_ALPHANUMERIC[byte % _COUNT] for byte in drawn if byte < _FAIR]
    return prefix + "".join(chars[:length])


def tool_call_id() -> str:
    """An id that survives OpenClaw's replay, which strips everything but letters and digits."""
    return random_id()


def uuid7(now_ms: int) -> str:
    """A UUID version 7 as 32 hexadecimal digits: ids made later sort later.

    Args:
        now_ms: UTC milliseconds since the epoch.
    """
    stamp = now_ms & (2**48 - 1)
    return f"{stamp:012x}7{secrets.randbits(12):03x}{0b10 << 62 | secrets.randbits(62):016x}"
