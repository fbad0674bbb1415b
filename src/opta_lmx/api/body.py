"""Reading a request body with a size limit and a deadline."""

import asyncio

from starlette.requests import ClientDisconnect, Request

from opta_lmx.core.errors import ErrorKind, LmxError


def _too_large(limit: int) -> LmxError:
    return LmxError(
        ErrorKind.PAYLOAD_TOO_LARGE,
        f"The request body is larger than {limit} bytes.",
        code="body_too_large",
    )


async def read_body(request: Request, *, limit: int, timeout_s: float) -> bytes:
    """Return the whole body.

    Raises:
        LmxError: PAYLOAD_TOO_LARGE above `limit` bytes, REQUEST_TIMEOUT after `timeout_s`.
        ClientDisconnect: the client went away while sending.
    """
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > limit:
        raise _too_large(limit)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise _too_large(limit)
                parts.append(part)
    except TimeoutError:
        raise LmxError(
            ErrorKind.REQUEST_TIMEOUT, f"The body did not arrive within {timeout_s:g} s."
        ) from None
    return b"".join(parts)


__all__ = ["ClientDisconnect", "read_body"]
