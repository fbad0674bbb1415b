"""A bare HTTP server whose every answer is written by a test, byte by byte."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

Reply = Callable[[dict[str, Any], asyncio.StreamWriter], Awaitable[None]]
"""Gets the body of a request, and where to write the answer, headers and all."""
_STEPS = 5
"""Of the loop, from a connection that is there to its handler."""


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
    served: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Noted here: a task that is cancelled before its first step never closes anything.
        served[asyncio.ensure_future(_serve(reply, reader, writer))] = writer

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        # Before the server closes, which would drop what it accepted and has not handed over yet.
        for _ in range(_STEPS):
            await asyncio.sleep(0)
        for task, writer in served.items():
            task.cancel()
            writer.transport.abort()
        await asyncio.gather(*served, return_exceptions=True)
