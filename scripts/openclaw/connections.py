"""A listener on loopback that leaves no connection open behind it."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
_STEPS = 5
"""Of the loop, from a connection that is there to its handler."""


@asynccontextmanager
async def listening(serve: Serve) -> AsyncGenerator[str]:
    """Serve every connection; yields the address.

    At the end no connection is left open, not even one whose client gave up before it was served.
    """
    served: dict[asyncio.Future[None], asyncio.StreamWriter] = {}

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Noted here: a task that is cancelled before its first step never closes anything.
        task = asyncio.ensure_future(serve(reader, writer))
        served[task] = writer
        task.add_done_callback(served.pop)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        # Before the server closes, which would drop what it accepted and has not handed over yet.
        for _ in range(_STEPS):
            await asyncio.sleep(0)
        left = dict(served)
        for task, writer in left.items():
            task.cancel()
            writer.transport.abort()
        await asyncio.gather(*left, return_exceptions=True)
