"""Who of one model's requests runs next, who makes room, and who goes on after a restart."""

import asyncio

import msgspec

from opta_lmx.backends.frames import Cancel, Ready, Step
from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.principal import Lane
from opta_lmx.engine.caching import ModelCache
from opta_lmx.engine.course import Course, Phase, resumable
from opta_lmx.engine.device import Device, Seat
from opta_lmx.engine.trials import Trials
from opta_lmx.engine.worker import WorkerHandle
from opta_lmx.scheduling.fair_line import FairLine
from opta_lmx.scheduling.rules import Position, Work

_LOOK_S = 0.02
"""How often, at most, steps are taken as an occasion to see whether somebody must make room."""


class Turns:
    """Joins the line's decisions with the tasks that wait and the answers under way.

    A request waits here for its first slot as a task. From then on it is a `Course`: paused or
    bereft of its worker, it takes its turn again by itself, and its reader only sees tokens come
    later. Slots are granted between `resume` and `suspend`; after `close` nobody waits again.

    Args:
        line: decides.
        cache: is asked before every submission, and told what becomes of it.
        clock: time.
        seat: its place on the device, which says when slots may be granted; without one it has
            the device for itself.
    """

    def __init__(
        self, line: FairLine, cache: ModelCache, clock: Clock, seat: Seat | None = None
    ) -> None:
        self.line = line
        self.cache = cache
        self.seat = seat or Device(clock).seat("", line)
        self.seat.occupant = self
        self._clock = clock
        self._worker: WorkerHandle | None = None
        self._ready: Ready | None = None
        self._closed: LmxError | None = None
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._holders: set[int] = set()
        self._courses: dict[int, Course] = {}
        self.trials = Trials(line, self._holders, self._waiting, self._courses, clock)
        self.suspects = self.trials.suspects
        self._looked_at = clock.monotonic()
        self._left: int | None = None

    # --- workers come and go --------------------------------------------------

    def resume(self, worker: WorkerHandle, ready: Ready) -> None:
        """A worker is ready: its slots go first to those who already wait."""
        self._worker, self._ready = worker, ready
        self.line.set_slots(ready.slots)
        self.line.set_preemptible(ready.pauses)
        self.line.set_room(ready.kv, ready.kv_bytes)
        self.trials.serving = True
        self.seat.resume(ready.slots)
        self._grant()

    def part(self) -> None:
        """The worker is about to end in peace: nobody is given to it any more."""
        self._worker, self.trials.serving = None, False
        self.seat.leave()

    def suspend(self, reason: LmxError, *, in_peace: bool = False) -> None:
        """The worker is gone: who only waits goes on waiting, who was in it is tried once more.

        So is who was in it together with the one that killed it, however often others do.

        Args:
            reason: what those are told who cannot go on.
            in_peace: it was ended for reasons of ours, so that nobody is suspected.
        """
        self.cache.detach()
        self._worker = self._left = None
        bereaved = set(self._holders)
        if in_peace:
            self.trials.parted()
        else:
            bereaved |= self.trials.died()
        self._holders.clear()
        for ticket in bereaved:
            self._bereave(ticket, reason)
        self.seat.leave()

    def _bereave(self, ticket: int, reason: LmxError) -> None:
        course = self._courses.get(ticket)
        if course is None and ticket in self._waiting:
            self.line.yielded(ticket)  # granted a moment ago, not taken yet
        elif course is not None and not course.over and self._may_go_on(ticket, course):
            course.stream.restart()
            self._wait_again(ticket, course)
        else:
            if course is not None:
                twice = self.suspects.convicted(ticket)
                course.stream.fail(fatal(reason) if twice else reason.again())
            self._forget(ticket, finished=False)

    def _may_go_on(self, ticket: int, course: Course) -> bool:
        ability = "none" if self._ready is None else self._ready.resumes
        return not self.suspects.convicted(ticket) and course.survives(ability)

    def close(self, reason: LmxError) -> None:
        """The model is out of service for good: everybody is told."""
        self._closed = self.trials.closed = reason
        for ticket in self._holders:
            self._end_row(Cancel(ticket))
        self._worker = None
        for turn in self._waiting.values():
            if not turn.done():
                turn.set_exception(reason.again())
        for ticket, course in list(self._courses.items()):
            course.stream.fail(reason.again())
            self._forget(ticket, finished=False)
        for ticket in list(self._holders):
            self._forget(ticket, finished=False)
        self.seat.leave()
        self.trials.changed()

    def prepared(self, ticket: int) -> None:
        """A prompt is prepared, or given up: others may have waited for that."""
        if self.trials.prepared(ticket):
            self._grant()

    # --- the first turn -------------------------------------------------------

    async def come(self, course: Course) -> None:
        """Return when a slot is granted to an answer. Raises what ended the wait."""
        self.trials.convicts.refuse(course.request)
        await self.cache.wait(course.ticket, course.wish)
        request, cached = course.request, self.cache.expected(course.wish)
        pausable = self._ready is not None and resumable(request, self._ready.resumes)
        await self.wait(course.ticket, Work(len(request.ids), cached, request.max_tokens, pausable))
        try:
            self.trials.convicts.refuse(course.request)
        except LmxError:
            self.leave(course.ticket)
            raise

    async def wait(self, ticket: int, work: Work) -> None:
        """Return when a slot is granted to a ticket. Raises what ended the wait."""
        if self._closed is not None:
            raise self._closed.again()
        self.line.mark_ready(ticket, work)
        turn = self._waiting[ticket] = asyncio.get_running_loop().create_future()
        self._grant()
        try:
            await turn
            while ticket not in self._holders:  # it was granted by a worker that then died
                await self._wait_on(ticket)
        except BaseException:
            if ticket in self._holders:
                self._forget(ticket, finished=False)
                self._grant()
            raise
        finally:
            del self._waiting[ticket]

    async def _wait_on(self, ticket: int) -> None:
        if self._closed is not None:
            raise self._closed.again()
        turn = self._waiting[ticket] = asyncio.get_running_loop().create_future()
        await turn

    def position(self, ticket: int) -> Position | None:
        """How many go before a request, and how long that takes; None for one that runs."""
        return None if ticket in self._holders else self.line.position(ticket)

    def begin(self, course: Course) -> None:
        """Submit an answer on the slot that its ticket was granted."""
        self._courses[course.ticket] = course
        self._send(course)

    def leave(self, ticket: int) -> None:
        """Give up a place in the line, or a slot that was never used."""
        self.cache.leave(ticket)
        self._forget(ticket, finished=False)
        self._grant()

    def stop(self, ticket: int, keep: int | None = None) -> None:
        """End what was begun; a slot in use returns when the worker has released it.

        `keep`: tokens after the first so many are not wanted in any cache.
        """
        course = self._courses.get(ticket)
        if course is not None and course.phase is Phase.WAITING:
            self.leave(ticket)
            return
        if course is not None:
            course.left = True
        self._end_row(Cancel(ticket, keep))

    # --- what the worker tells ------------------------------------------------

    def stepped(self, step: Step) -> None:
        """Charge what was produced, and see now and then whether somebody must make room."""
        cleared = False
        for token in step.tokens:
            self.line.charge(token.request, 1)
            cleared |= self.suspects.said(token.request)
        self.line.kv_used = step.kv_bytes
        if self.seat.stepped(step) or self.line.cramped or cleared:
            self._grant()
        elif self.line.waiting:
            now = self._clock.monotonic()
            if now - self._looked_at >= _LOOK_S:
                self._looked_at = now
                self._grant()
        self._share_memory()

    def released(self, ticket: int) -> None:
        """The slot of a ticket is free again; it goes to the next."""
        course = self._courses.get(ticket)
        if course is not None and course.phase is Phase.YIELDING and not course.over:
            self._holders.discard(ticket)
            self._wait_again(ticket, course)
        else:
            finished = course is None or course.stream.finished
            if course is not None:
                course.stream.fail(_without_reason())
            self._forget(ticket, finished=finished)
            self.seat.throttle.freed()
        self._grant()

    # --- inside ---------------------------------------------------------------

    def _grant(self) -> None:
        self.seat.arrange()
        self.trials.changed()

    def fill(self, *, begin: bool) -> None:
        """Ask rows to make room for who must not wait, and grant slots if any may (`begin`)."""
        while self._worker is not None:
            while begin and (ticket := self.trials.grant()) is not None:
                self._give(ticket)
            if not self._make_room():
                break
        self._share_memory()

    def admits(self, ticket: int) -> bool:
        """True when a request may begin now, as far as those go who may kill the worker."""
        return self.trials.admits(ticket)

    def _share_memory(self) -> None:
        """Let processed prompts have what running rows leave."""
        left = self.line.memory_left
        if left is not None and left != self._left:
            self._left = left
            self.cache.bound(left)

    def _give(self, ticket: int) -> None:
        self._holders.add(ticket)
        course, turn = self._courses.get(ticket), self._waiting.get(ticket)
        if course is not None:
            self._send(course)
        elif turn is None:
            self._forget(ticket, finished=False)
        elif not turn.done():
            turn.set_result(None)

    def _make_room(self) -> bool:
        """Ask rows to pause for those who must not wait; True when a slot is free already."""
        free = False
        while self._worker is not None and (ticket := self.line.preempt()) is not None:
            free |= self._ask_to_pause(ticket)
        return free

    def pause(self, lane: Lane) -> None:
        """Ask the rows of a lane to pause; they go on when the line lets them."""
        if self._worker is not None:
            for ticket in self.line.pause(lane, self.cache.hold):
                self._ask_to_pause(ticket)

    def _ask_to_pause(self, ticket: int) -> bool:
        """The line wants this slot back; True when it is free already."""
        course = self._courses.get(ticket)
        if course is not None:
            course.phase = Phase.YIELDING
            self.cache.hold(ticket)
            self._end_row(Cancel(ticket, hold=True))
        elif ticket in self._waiting:
            self._holders.discard(ticket)
            self.line.yielded(ticket)
            return True
        return False

    def _end_row(self, request: Cancel) -> None:
        if self._worker is not None:
            self._worker.cancel(request)

    def _send(self, course: Course) -> None:
        assert self._worker is not None
        course.phase = Phase.RUNNING
        request = self.cache.planned(*course.rest())
        self.suspects.begins(course.ticket)
        if self.line.is_alone(course.ticket):
            request = msgspec.structs.replace(request, first=True)
        self._share_memory()
        self._worker.submit(request, course.stream)

    def _wait_again(self, ticket: int, course: Course) -> None:
        course.phase = Phase.WAITING
        self.line.yielded(ticket)

    def _forget(self, ticket: int, *, finished: bool) -> None:
        """The request is over, for the line too."""
        self._holders.discard(ticket)
        self._courses.pop(ticket, None)
        self.suspects.over(ticket, finished=finished)
        self.line.release(ticket, finished=finished)
        self.line.leave(ticket)


def _without_reason() -> LmxError:
    return LmxError(ErrorKind.INTERNAL, "The answer ended without a reason.")


def fatal(reason: LmxError) -> LmxError:
    """What is told of a request that two workers died with."""
    return LmxError(
        reason.kind,
        f"{reason.message} It was the second one with this request, which is not tried again.",
        code=reason.code,
        param=reason.param,
    )
