"""One request on a socket, from its first frame to its last."""

import asyncio

from opta_lmx.api.streaming import ClientGone
from opta_lmx.api.ws.frames import ChatCall, Frames
from opta_lmx.api.ws_connection import Outbox
from opta_lmx.codec.deltas import CallArguments, CallStart, ReasoningDelta, TextDelta
from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import LmxError
from opta_lmx.core.types import ToolCall
from opta_lmx.serving.answering import AnswerEvent, Answering, Ended, Spoke

CANCELLED = "cancelled"
_CLIENT_CLOSED = 499


class Turn:
    """Runs a call and tells the client.

    Args:
        call: what is asked.
        answering: the call, not yet opened.
        frames: how it is told.
        outbox: to whom.
        clock: time.

    Attributes:
        started: the turn has begun, and says so when it is cancelled.
        status: what HTTP would have answered, once the turn has ended; 499 where the client
            cancelled it or went.
        last_sent: when the client heard of this turn last (s, monotonic).
    """

    def __init__(
        self, call: ChatCall, answering: Answering, frames: Frames, outbox: Outbox, clock: Clock
    ) -> None:
        self._call = call
        self._answering = answering
        self._frames = frames
        self._outbox = outbox
        self._clock = clock
        self._text: list[str] = []
        self._thoughts: list[str] = []
        self._open_call: tuple[CallStart, list[str]] | None = None
        self._end: Ended | None = None
        self._unwanted = False
        self.started = asyncio.Event()
        self.status = _CLIENT_CLOSED
        self.last_sent = clock.monotonic()

    async def run(self, ignored: tuple[str, ...]) -> None:
        """Acknowledge, answer, end. Frees the call however it ends.

        Args:
            ignored: unknown fields that were let pass.
        """
        self.started.set()
        try:
            await self._say(self._frames.accepted(self._call.request.model, ignored))
            await self._answer()
        except LmxError as error:
            await self.fail(error)
        except asyncio.CancelledError:
            if not self._unwanted or self.status != _CLIENT_CLOSED:
                raise
            await self._say(self._frames.done(CANCELLED, self._answering.usage, {}))
        except ClientGone:
            pass
        finally:
            self.close()

    def close(self) -> None:
        """Free the call. Idempotent."""
        self._answering.close()

    def cancel(self, task: asyncio.Task[None]) -> None:
        """End the turn because its client no longer wants it: it is told so."""
        self._unwanted = True
        task.cancel()

    async def fail(self, error: LmxError) -> None:
        """Tell the client what ended the turn."""
        self.status, frame = self._frames.failed(error)
        await self._say(frame)

    async def keep_alive(self) -> None:
        """Say that the turn still waits or runs."""
        await self._say(self._frames.keepalive(self._answering.position))

    async def _answer(self) -> None:
        accepted = await self._answering.open()
        async for events in self._answering:
            for event in events:
                await self._take(event)
        assert self._end is not None, "an answer that did not end raised"
        extra: dict[str, object] = {"model": self._call.request.model}
        if accepted.fingerprint:
            extra["system_fingerprint"] = accepted.fingerprint
        if not self._call.stream:
            extra["content"] = "".join(self._text)
            if self._thoughts:
                extra["reasoning_content"] = "".join(self._thoughts)
        self.status = 200
        await self._say(self._frames.done(self._end.finish, self._answering.usage, extra))

    async def _take(self, event: AnswerEvent) -> None:
        if isinstance(event, Ended):
            await self._end_call()
            self._end = event
            return
        match event.delta:
            case TextDelta():
                await self._end_call()
                await self._take_text(event, event.delta.text)
            case ReasoningDelta(text):
                await self._end_call()
                if self._call.stream:
                    await self._say(self._frames.reasoning(text))
                else:
                    self._thoughts.append(text)
            case CallStart():
                await self._end_call()
                self._open_call = (event.delta, [])
            case CallArguments(_, text):
                assert self._open_call is not None, "arguments follow the start of their call"
                self._open_call[1].append(text)

    async def _take_text(self, event: Spoke, text: str) -> None:
        if self._call.stream:
            await self._say(self._frames.token(text, event.tokens))
        else:
            self._text.append(text)

    async def _end_call(self) -> None:
        """Tool calls are told whole, as clients of old know them."""
        if self._open_call is None:
            return
        start, parts = self._open_call
        self._open_call = None
        call = ToolCall(start.id, start.name, "".join(parts))
        await self._say(self._frames.tool_call(start.index, call))

    async def _say(self, frame: bytes) -> None:
        self.last_sent = self._clock.monotonic()
        await self._outbox.send(frame)
