"""Reading a request body with a size limit and a deadline, parsing it without a long pause."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from starlette.requests import Request

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.pauses import TakesLong, no_long_pauses

LARGE_BODY_BYTES = 256 * 1024
"""Bodies above this are parsed on a thread; below, that would cost more than it saves."""
OPERATORS_BYTES = 64 * 1024
"""The longest body that an operator's route reads: so far the audit log looks for what it names."""

_MAX_LENGTH_DIGITS = 19

_Parsed = TypeVar("_Parsed")


def check_size(what: str, size: int, limit: int) -> None:
    """Raise PAYLOAD_TOO_LARGE where `what` has more than `limit` bytes."""
    if size > limit:
        raise LmxError(
            ErrorKind.PAYLOAD_TOO_LARGE,
            f"The {what} is larger than {limit} bytes.",
            code="body_too_large",
        )


async def read_body(request: Request, *, limit: int, timeout_s: float) -> bytes:
    """Return the whole body.

    Raises:
        LmxError: PAYLOAD_TOO_LARGE above `limit` bytes, REQUEST_TIMEOUT after `timeout_s`.
        ClientDisconnect: the client went away while sending.
    """
    declared = request.headers.get("content-length", "0")
    sound = declared.isdecimal() and len(declared) <= _MAX_LENGTH_DIGITS
    check_size("request body", int(declared) if sound else limit + 1, limit)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            async for part in request.stream():
                size += len(part)
                check_size("request body", size, limit)
                parts.append(part)
    except TimeoutError:
        raise LmxError(
            ErrorKind.REQUEST_TIMEOUT, f"The body did not arrive within {timeout_s:g} s."
        ) from None
    return b"".join(parts)


class BodyParser:
    """Parses large bodies, and those whose parsing takes long, on a thread, one at a time.

    Threads share the interpreter's lock: a second one would finish nothing sooner, and make
    the event loop wait twice as long for its turn.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def parse(self, parser: Callable[[bytes], _Parsed], body: bytes) -> _Parsed:
        """Return `parser(body)`. Raises what it raises."""
        if len(body) <= LARGE_BODY_BYTES:
            try:
                with no_long_pauses():
                    return parser(body)
            except TakesLong:
                pass  # begun anew on the thread
        async with self._turn:
            return await asyncio.to_thread(parser, body)
