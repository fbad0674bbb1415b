"""A bare HTTP server whose every answer is written by a test, byte by byte."""

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from scripts.openclaw.connections import listening

Reply = Callable[[dict[str, Any], asyncio.StreamWriter], Awaitable[None]]
"""Gets the body of a request, and where to write the answer, headers and all."""


async def _serve(reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        length = next(int(line.split(":")[1]) for line in lines if "Content-Length" in line)
        await reply(json.loads(await reader.readexactly(length)), writer)
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def answering(reply: Reply) -> AsyncIterator[str]:
    """Answer every request by `reply`; yields the address.

    At the end no connection is left open, not even one whose client gave up before it was served.
    """
    async with listening(functools.partial(_serve, reply)) as address:
        yield address
