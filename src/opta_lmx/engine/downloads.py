"""Downloads asked for over HTTP: a few at once, watched by whoever likes, cancellable."""

import asyncio
import contextlib
import contextvars
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from opta_lmx.core.clock import Clock, SystemClock
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.ids import random_id
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.models.progress import Progress

Pull = Callable[[str, Callable[[Progress], None], threading.Event], object]
"""Fetches a model by reference on the calling thread, reporting progress until cancelled."""

_AT_ONCE = 2
_KEPT = 100
_MAX_WAITING = 100
_CLOSE_TIMEOUT_S = 3.0


class Download:
    """One download and how far it has got; times are UTC in ms since the epoch."""

    def __init__(self, model: str, started_ms: int) -> None:
        self.id = random_id("dl-")
        self.started_ms = started_ms
        self.ended_ms: int | None = None
        self.model = model
        self.status = "running"
        self.progress: Progress | None = None
        self.error: LmxError | None = None
        self.cancelled = threading.Event()
        self.changed = asyncio.Event()

    def report(self) -> dict[str, Any]:
        """What clients are told: bytes done and in total, state, and the error if it failed."""
        progress = self.progress
        error = self.error
        return {
            "download_id": self.id,
            "model": self.model,
            "status": self.status,
            "phase": None if progress is None else progress.state,
            "file": None if progress is None else progress.file,
            "downloaded_bytes": 0 if progress is None else progress.done_bytes,
            "total_bytes": 0 if progress is None else progress.total_bytes,
            "message": "" if progress is None else progress.message,
            "error": None if error is None else {"code": error.code, "message": error.message},
        }

    def changed_now(self) -> None:
        """Wake every watcher."""
        self.changed.set()
        self.changed = asyncio.Event()


class Downloads:
    """The downloads of this run; two requests for one model share one download.

    Each runs on a daemon thread of its own: one that waits in a socket for a silent hub can
    neither keep the process alive nor take a thread from anybody else.
    """

    def __init__(self, pull: Pull, telemetry: Telemetry, clock: Clock | None = None) -> None:
        self._pull = pull
        self._telemetry = telemetry
        self._clock = clock or SystemClock()
        self._jobs: dict[str, Download] = {}
        self._waiting: deque[Download] = deque()
        self._threads: set[Download] = set()

    def start(self, model: str) -> Download:
        """Begin, or join the running download of the same model.

        Raises:
            LmxError: RATE_LIMITED `too_many_downloads`.
        """
        for job in self._jobs.values():
            if job.model == model and job.status == "running" and not job.cancelled.is_set():
                return job
        if len(self._waiting) >= _MAX_WAITING:
            raise LmxError(
                ErrorKind.RATE_LIMITED,
                "Too many downloads wait already.",
                code="too_many_downloads",
                retry_after=60,
            )
        job = Download(model, self._clock.now_ms())
        self._jobs[job.id] = job
        self._waiting.append(job)
        self._fill()
        self._forget_old()
        return job

    def list(self) -> list[Download]:
        """Newest last."""
        return list(self._jobs.values())

    def get(self, download_id: str) -> Download:
        """One download. Raises NOT_FOUND."""
        job = self._jobs.get(download_id)
        if job is None:
            raise LmxError(
                ErrorKind.NOT_FOUND, f"No download '{download_id}'.", code="download_not_found"
            )
        return job

    def cancel(self, download_id: str) -> Download:
        """Ask a download to stop: one that waits ends now, one under way at its next byte."""
        job = self.get(download_id)
        job.cancelled.set()
        if job in self._waiting:
            self._waiting.remove(job)
            self._end(job, "cancelled", _cancelled())
        return job

    async def watch(self, job: Download) -> AsyncIterator[dict[str, Any]]:
        """Reports as they change, the last one with a final status."""
        while True:
            changed = job.changed
            yield job.report()
            if job.status != "running":
                return
            await changed.wait()

    async def close(self) -> None:
        """Stop everything; partial files stay for a later resume.

        Threads that have not noticed after 3 s are left behind, their downloads cancelled.
        """
        unfinished = [job for job in self._jobs.values() if job.status == "running"]
        for job in unfinished:
            self.cancel(job.id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                for job in unfinished:
                    async for _ in self.watch(job):
                        pass
        for job in unfinished:
            self._end(job, "cancelled", _cancelled())

    def _fill(self) -> None:
        """Give threads to those who wait, but not a second one to the files of one model."""
        loop = asyncio.get_running_loop()
        while len(self._threads) < _AT_ONCE:
            busy = {job.model for job in self._threads}
            job = next((job for job in self._waiting if job.model not in busy), None)
            if job is None:
                return
            self._waiting.remove(job)
            self._threads.add(job)
            threading.Thread(
                target=self._work, args=(job, loop), name=f"download {job.id}", daemon=True
            ).start()

    def _work(self, job: Download, loop: asyncio.AbstractEventLoop) -> None:
        """The whole life of a download's thread."""

        def tell(change: Callable[..., None], *args: object) -> None:
            # The loop is closed when the server has gone without waiting for this thread. The
            # empty context keeps the id of the request that began it out of later log lines.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(change, *args, context=contextvars.Context())

        error: LmxError | None = None
        try:
            self._pull(job.model, lambda progress: tell(_note, job, progress), job.cancelled)
        except LmxError as known:
            error = known
        except Exception as cause:  # noqa: BLE001  (boundary: whatever ends a pull is told)
            error = LmxError(ErrorKind.INTERNAL, "The download failed for an unforeseen reason.")
            tell(self._log_unforeseen, job, cause)
        tell(self._left, job, error)

    def _left(self, job: Download, error: LmxError | None) -> None:
        """The thread is done: its place is free."""
        self._threads.discard(job)
        if error is None:
            self._end(job, "completed", None)
        elif job.cancelled.is_set():
            # Whatever it stumbled over while stopping, it was told to stop.
            self._end(job, "cancelled", _cancelled())
        else:
            self._end(job, "failed", error)
        self._fill()

    def _end(self, job: Download, status: str, error: LmxError | None) -> None:
        if job.status != "running":
            return
        job.status, job.error = status, error
        job.ended_ms = self._clock.now_ms()
        self._telemetry.log("info", "download ended", model=job.model, status=status)
        job.changed_now()
        self._forget_old()

    def _log_unforeseen(self, job: Download, cause: Exception) -> None:
        self._telemetry.log("error", "download broke", model=job.model, exc_info=cause)

    def _forget_old(self) -> None:
        """Drop the oldest of what has ended; what runs stays, however much it is."""
        ended = [job.id for job in self._jobs.values() if job.status != "running"]
        for job_id in ended[: max(0, len(self._jobs) - _KEPT)]:
            del self._jobs[job_id]


def _cancelled() -> LmxError:
    return LmxError(ErrorKind.CONFLICT, "The download was cancelled.", code="cancelled")


def _note(job: Download, progress: Progress) -> None:
    job.progress = progress
    job.changed_now()
