"""Identifiers: alphanumeric where clients rewrite anything else, UUIDv7 where things are stored."""

import secrets
import string

_ALPHANUMERIC = string.ascii_letters + string.digits


def random_id(prefix: str = "", length: int = 24) -> str:
    """Return `prefix` plus `length` random characters of `[A-Za-z0-9]`."""
    return prefix + "".join(secrets.choice(_ALPHANUMERIC) for _ in range(length))


def tool_call_id() -> str:
    """An id that survives OpenClaw's replay, which strips everything but letters and digits."""
    return random_id()
