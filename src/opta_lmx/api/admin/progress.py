"""How far a job has got, as server-sent events until it ends."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from opta_lmx.api.streaming import EventStream, StreamWriter
from opta_lmx.core.clock import Clock

_KEEPALIVE_S = 10.0


def stream(reports: AsyncIterator[dict[str, Any]], clock: Clock) -> EventStream:
    """Send each report as it comes, and something empty while none does."""

    async def produce(writer: StreamWriter) -> None:
        async for report in reports:
            await writer.write(b"data: " + msgspec.json.encode(report) + b"\n\n")

    return EventStream(
        produce,
        noop=lambda: b"data: {}\n\n",
        keepalive_s=_KEEPALIVE_S,
        clock=clock,
        close=lambda: None,
    )
