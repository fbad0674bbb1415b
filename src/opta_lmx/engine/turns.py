"""Who of one model's requests runs next: tickets wait here until a slot is theirs."""

import asyncio

from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import LmxError
from opta_lmx.scheduling.line import WaitingLine


class Turns:
    """Joins the waiting line's decisions with the tasks that wait for them.

    Slots are granted only between `resume` and `suspend`; after `close` nobody waits again.
    """

    def __init__(self, line: WaitingLine, clock: Clock) -> None:
        self._line = line
        self._clock = clock
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._began: dict[int, float] = {}
        self._granting = False
        self._closed: LmxError | None = None

    def resume(self) -> None:
        """A worker is ready: grant its slots, first to those who already wait."""
        self._granting = True
        self._grant()

    def suspend(self, reason: LmxError) -> None:
        """The worker is gone: its slots with it, and whoever waits is told why."""
        self._granting = False
        self._line.clear_running()
        self._began.clear()
        for turn in self._waiting.values():
            if not turn.done():
                turn.set_exception(reason.again())

    def close(self, reason: LmxError) -> None:
        """The model is out of service for good."""
        self._closed = reason
        self.suspend(reason)

    async def wait(self, ticket: int) -> None:
        """Return when a slot is granted. Raises what ended the wait."""
        if self._closed is not None:
            raise self._closed.again()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[ticket] = turn
        self._line.mark_ready(ticket)
        self._grant()
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.released(ticket)
            raise
        finally:
            self._waiting.pop(ticket, None)
        self._began[ticket] = self._clock.monotonic()

    def released(self, ticket: int) -> None:
        """The slot of a ticket is free again; it goes to the next."""
        began = self._began.pop(ticket, None)
        took = None if began is None else self._clock.monotonic() - began
        self._line.release(ticket, took)
        self._grant()

    def leave(self, ticket: int) -> None:
        """Give up a place in the line, or a slot that was never used."""
        self._line.leave(ticket)
        self.released(ticket)

    def _grant(self) -> None:
        while self._granting and (ticket := self._line.grant()) is not None:
            turn = self._waiting.get(ticket)
            if turn is None or turn.done():
                self._line.release(ticket)
            else:
                turn.set_result(None)
