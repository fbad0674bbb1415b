"""The front's end of one worker's socket: frames in, frames out."""

import asyncio
from collections.abc import Callable
from typing import cast

import msgspec

from opta_lmx.backends.frames import (
    FrameBuffer,
    FrameError,
    ToFront,
    ToWorker,
    encode,
    to_front_decoder,
)


class WorkerLink(asyncio.Protocol):
    """Decodes frames as they arrive and reports the end of the connection once."""

    def __init__(self, on_frame: Callable[[ToFront], None], on_lost: Callable[[], None]) -> None:
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._buffer = FrameBuffer()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport for writing."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Deliver whole frames; a malformed one ends the connection."""
        try:
            for body in self._buffer.feed(data):
                self._on_frame(to_front_decoder.decode(body))
        except (FrameError, msgspec.DecodeError):
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (asyncio's signature)
        """The worker is gone, or was told to go."""
        self._transport = None
        self._on_lost()

    def send(self, frame: ToWorker) -> None:
        """Send one frame; does nothing once the connection has ended."""
        if self._transport is not None:
            self._transport.write(encode(frame))

    def close(self) -> None:
        """End the connection, which ends the worker."""
        if self._transport is not None:
            self._transport.abort()
