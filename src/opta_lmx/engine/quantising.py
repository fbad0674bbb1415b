"""Quantising jobs: one at a time, the others in line; watched, cancelled, told of after a crash."""

import asyncio
import contextvars
from collections import deque
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from opta_lmx.config.sections.models import ModelsSettings
from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.ids import random_id
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.engine.planner import Planner
from opta_lmx.engine.quantise_jobs import (
    INTERRUPTED,
    Failure,
    Job,
    Record,
    Records,
    State,
    Wish,
    failure_of,
)
from opta_lmx.engine.quantise_workshop import Workshop
from opta_lmx.engine.settle import settle
from opta_lmx.models.names import flat

_KEPT = 100
_MAX_WAITING = 16
_RETRY_S = 60.0


class Quantising:
    """The jobs of this home, those of earlier runs of the server among them.

    Args:
        workshop: does the work.
        records: what is kept of jobs; what is unfinished in it is settled now.
        timeout_s: a job that takes longer is ended.
        telemetry: where ends are logged.
        clock: for times.
    """

    def __init__(
        self,
        workshop: Workshop,
        records: Records,
        timeout_s: float,
        telemetry: Telemetry,
        clock: Clock,
    ) -> None:
        self._workshop = workshop
        self._records = records
        self._timeout_s = timeout_s
        self._telemetry = telemetry
        self._clock = clock
        self._waiting: deque[Job] = deque()
        self._work: asyncio.Task[None] | None = None
        self._running: asyncio.Task[None] | None = None
        self._closed = False
        self._jobs = {record.job_id: Job(record) for record in records.load()}
        for job in self.list():
            if not job.ended:
                job.record = self._recovered(job)
                self._write(job.record)

    async def start(self, wish: Wish) -> Job:
        """Take a job into the line; it is on record when this returns.

        Raises:
            LmxError: see `Workshop.check`; CONFLICT `model_busy`; RATE_LIMITED
                `too_many_jobs`; UNAVAILABLE when the server is stopping.
        """
        entry, name, chosen = await asyncio.to_thread(self._workshop.check, wish)
        self._refuse(name)
        self._workshop.refuse_leaving(entry)
        job = Job(
            Record(
                job_id=random_id("qz-"),
                model=entry.name,
                name=name,
                mode=chosen.mode,
                bits=chosen.bits,
                group_size=chosen.group_size,
                created_ms=self._clock.now_ms(),
            )
        )
        self._jobs[job.id] = job
        self._waiting.append(job)
        try:
            await settle(asyncio.to_thread(self._write, job.record))
        finally:
            self._next()
        return job

    def list(self) -> list[Job]:
        """Newest last."""
        return list(self._jobs.values())

    def get(self, job_id: str) -> Job:
        """One job. Raises NOT_FOUND."""
        job = self._jobs.get(job_id)
        if job is None:
            raise LmxError(
                ErrorKind.NOT_FOUND, f"No job '{job_id[:64]}'.", code="job_not_found", param="job"
            )
        return job

    async def cancel(self, job_id: str) -> Job:
        """End a job: at once in the line, else as soon as its process is dead and cleared away.

        One that is done stays done, even if that came about while it was being cancelled.
        """
        job = self.get(job_id)
        if job in self._waiting:
            self._waiting.remove(job)
            await settle(self._end(job, "cancelled", _by_user()))
        elif job.record.status == "running":
            job.record.status = "cancelling"
            job.tell()
            self._stop()
        return job

    async def watch(self, job: Job) -> AsyncIterator[dict[str, Any]]:
        """Reports as they change, the last one with a final status."""
        while True:
            changed = job.changed
            yield job.report()
            if job.ended:
                return
            await changed.wait()

    async def close(self) -> None:
        """End everything; nothing of what was under way is left but the records."""
        self._closed = True
        waiting = list(self._waiting)
        self._waiting.clear()
        for job in waiting:
            await self._end(job, "failed", _interrupted())
        if self._running is not None:
            if any(job.record.status == "running" for job in self.list()):
                self._stop()
            await asyncio.wait({self._running})

    def _refuse(self, name: str) -> None:
        """What only those who know the line can refuse."""
        if self._closed:
            raise LmxError(ErrorKind.UNAVAILABLE, "The server is stopping.", code="draining")
        if any(flat(job.record.name) == flat(name) and not job.ended for job in self.list()):
            raise LmxError(
                ErrorKind.CONFLICT,
                f"Another job is making '{name}' already.",
                code="model_busy",
                param="name",
            )
        if len(self._waiting) >= _MAX_WAITING:
            raise LmxError(
                ErrorKind.RATE_LIMITED,
                "Too many quantising jobs wait already.",
                code="too_many_jobs",
                retry_after=_RETRY_S,
            )

    def _next(self) -> None:
        """Begin the first in line, if nothing runs."""
        if self._running is not None or not self._waiting or self._closed:
            return
        job = self._waiting.popleft()
        job.record.status, job.record.started_ms = "running", self._clock.now_ms()
        job.tell()
        # Its log lines are not those of the request that began it, or of the job before.
        empty = contextvars.Context()
        self._work = asyncio.create_task(self._do(job), context=empty)
        self._running = asyncio.create_task(self._see_through(job, self._work), context=empty)

    def _stop(self) -> None:
        if self._work is not None:
            self._work.cancel()

    async def _see_through(self, job: Job, work: asyncio.Task[None]) -> None:
        """Wait for the end of a job, and see to what comes after; never cancelled itself."""
        await asyncio.wait({work}, timeout=self._timeout_s)
        late = not work.done()
        if late:
            work.cancel()
            await asyncio.wait({work})
        status, error = self._outcome(job, work, late=late)
        await self._end(job, status, error)
        self._work = self._running = None
        self._next()

    def _outcome(
        self, job: Job, work: asyncio.Task[None], *, late: bool
    ) -> tuple[State, Failure | None]:
        """How a job ended whose work has."""
        if job.record.result is not None:
            return "completed", None
        if job.record.status == "cancelling":
            # Whatever it stumbled over while stopping, it was told to stop.
            return "cancelled", _by_user()
        if late:
            text = f"The job took longer than {self._timeout_s:g} s."
            return "failed", Failure("timed_out", text)
        if work.cancelled():
            return "failed", _interrupted()
        cause = work.exception()
        if isinstance(cause, LmxError):
            return "failed", failure_of(cause)
        self._telemetry.log("error", "quantising broke", job=job.id, exc_info=cause)
        text = "The job failed for an unforeseen reason."
        return "failed", Failure(ErrorKind.INTERNAL.value, text)

    async def _do(self, job: Job) -> None:
        """The work of a job; when it has ended, so have its process and its folder."""
        await asyncio.to_thread(self._write, job.record)
        stack = ExitStack()
        try:
            entered = asyncio.to_thread(stack.enter_context, self._workshop.reserved(job))
            entry, folder = await settle(entered)
            await self._workshop.make(job, entry, folder)
        finally:
            await settle(asyncio.to_thread(stack.close))

    async def _end(self, job: Job, status: State, error: Failure | None) -> None:
        """The end is on disk before anybody hears of it."""
        record = self._final(job, status, error)
        await asyncio.to_thread(self._write, record)
        job.record = record
        code = None if error is None else error.code
        self._telemetry.log("info", "quantising ended", job=job.id, status=status, code=code)
        job.tell()
        ended = [one.id for one in self._jobs.values() if one.ended]
        for job_id in ended[: max(0, len(self._jobs) - _KEPT)]:
            del self._jobs[job_id]
            self._records.forget(job_id)

    def _final(self, job: Job, status: State, error: Failure | None) -> Record:
        now = self._clock.now_ms()
        return msgspec.structs.replace(job.record, status=status, error=error, ended_ms=now)

    def _recovered(self, job: Job) -> Record:
        """How a job stands whose server is gone."""
        job.record.result = self._workshop.made(job.record)
        if job.record.result is not None:
            return self._final(job, "completed", None)
        return self._final(job, "failed", _interrupted())

    def _write(self, record: Record) -> None:
        """Keep the record; a disk that fails costs the record, not the job."""
        try:
            self._records.write(record)
        except OSError as error:
            reason = str(error)
            self._telemetry.log("warning", "job record not kept", job=record.job_id, reason=reason)


def open_quantising(
    planner: Planner,
    home: Path,
    settings: ModelsSettings,
    telemetry: Telemetry,
    clock: Clock,
    *,
    recorded: bool = True,
) -> Quantising:
    """The quantising room of a home; without records where another process may own them."""
    records = Records(home / "jobs" / "quantise" if recorded else None)
    timeout_s = settings.quantise_timeout_s
    return Quantising(Workshop(planner, home), records, timeout_s, telemetry, clock)


def _by_user() -> Failure:
    return Failure("cancelled_by_user", "The job was cancelled.")


def _interrupted() -> Failure:
    return Failure(INTERRUPTED, "The server ended while the job was unfinished; start it anew.")
