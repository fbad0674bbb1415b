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
from opta_lmx.engine.download_book import DownloadBook, Noted
from opta_lmx.models.offer import Pin, offer_changed
from opta_lmx.models.progress import Progress

Pull = Callable[[str, Callable[[Progress], None], threading.Event, Pin | None], object]
"""Fetches a model by reference on the calling thread, reporting progress until cancelled.

Where it is held to something, it fetches just that.
"""

_AT_ONCE = 2
_KEPT = 100
_MAX_WAITING = 100
_CLOSE_TIMEOUT_S = 3.0


class Download:
    """One download and how far it has got; times are UTC in ms since the epoch.

    `status` is `running`, `completed`, `failed`, `cancelled`, or `interrupted` for one that was
    under way when the server ended and goes on when it is asked for again. `pin` is what it is
    held to; None for what nobody looked at before.
    """

    def __init__(self, model: str, started_ms: int, download_id: str | None = None) -> None:
        self.id = download_id or random_id("dl-")
        self.started_ms = started_ms
        self.ended_ms: int | None = None
        self.model = model
        self.pin: Pin | None = None
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
            "started_ms": self.started_ms,
            "ended_ms": self.ended_ms,
            "error": None if error is None else {"code": error.code, "message": error.message},
        }

    def changed_now(self) -> None:
        """Wake every watcher."""
        self.changed.set()
        self.changed = asyncio.Event()


class Downloads:
    """The downloads of this run and those the last one left; requests for a model share one.

    Each runs on a daemon thread of its own: one that waits in a socket for a silent hub can
    neither keep the process alive nor take a thread from anybody else.

    Args:
        pull: fetches one model.
        telemetry: where ends are logged.
        clock: for their times.
        book: keeps what is under way for the next run.
    """

    def __init__(
        self,
        pull: Pull,
        telemetry: Telemetry,
        clock: Clock | None = None,
        book: DownloadBook | None = None,
    ) -> None:
        self._pull = pull
        self._book = book or DownloadBook()
        self._closing = False
        self._telemetry = telemetry
        self._clock = clock or SystemClock()
        self._jobs: dict[str, Download] = {}
        self._waiting: deque[Download] = deque()
        self._threads: set[Download] = set()
        for noted in self._book.read():
            self._jobs[noted.id] = _interrupted(noted, self._book.held_bytes(noted.model))

    def resume(self) -> None:
        """Go on with all that was interrupted."""
        for job in self.list():
            if job.status == "interrupted":
                self.start(job.model)

    def accepted(self, model: str) -> bool:
        """Whether a download of the model runs, or was interrupted: nobody need be asked again."""
        return self._known(model) is not None

    def active(self) -> "list[Download]":
        """Those that run or wait for their turn."""
        return [job for job in self._jobs.values() if job.status == "running"]

    def start(self, model: str, pin: Pin | None = None) -> Download:
        """Begin, go on where it was interrupted, or join the running download of the same model.

        Args:
            model: a reference.
            pin: what is to be fetched, and nothing newer.

        Raises:
            LmxError: RATE_LIMITED `too_many_downloads`; CONFLICT `offer_changed` while something
                else is fetched by this reference.
        """
        known = self._known(model)
        if known is not None and known.status == "running":
            if pin is not None and known.pin != pin:
                raise offer_changed(model)
            return known
        if len(self._waiting) >= _MAX_WAITING:
            raise LmxError(
                ErrorKind.RATE_LIMITED,
                "Too many downloads wait already.",
                code="too_many_downloads",
                retry_after=60,
            )
        job = known or Download(model, self._clock.now_ms())
        job.pin = pin or job.pin
        job.status = "running"
        self._jobs[job.id] = job
        self._waiting.append(job)
        self._note_all()
        self._fill()
        self._forget_old()
        return job

    def _known(self, model: str) -> Download | None:
        """The download of a model that runs, or that was interrupted."""
        return next(
            (
                job
                for job in self._jobs.values()
                if job.model == model
                and job.status in ("running", "interrupted")
                and not job.cancelled.is_set()
            ),
            None,
        )

    async def saved(self) -> None:
        """Return when the next run would know of all that was begun and cancelled until now."""
        await self._book.saved()

    def list(self) -> list[Download]:
        """Newest last."""
        return list(self._jobs.values())

    def get(self, download_id: str) -> Download:
        """One download. Raises NOT_FOUND."""
        job = self._jobs.get(download_id)
        if job is None:
            raise LmxError(
                ErrorKind.NOT_FOUND,
                f"No download '{download_id[:64]}'.",
                code="download_not_found",
                param="download_id",
            )
        return job

    def cancel(self, download_id: str) -> Download:
        """Ask a download to stop: one under way at its next byte, any other ends now."""
        job = self.get(download_id)
        job.cancelled.set()
        self._note_all()
        if job.status == "interrupted":
            self._end(job, "cancelled", _cancelled())
        elif job in self._waiting:
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
        """Stop everything; partial files stay, and the next run knows what was under way.

        Threads that have not noticed after 3 s are left behind, their downloads cancelled.
        """
        self._closing = True
        unfinished = self.active()
        for job in unfinished:
            self.cancel(job.id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                for job in unfinished:
                    async for _ in self.watch(job):
                        pass
        for job in unfinished:
            self._end(job, "cancelled", _cancelled())
        await self._book.saved()

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
            self._pull(
                job.model,
                lambda progress: tell(self._note, job, progress),
                job.cancelled,
                job.pin,
            )
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

    def _note(self, job: Download, progress: Progress) -> None:
        """Its thread tells how far it is; what it is in all is kept once it is known."""
        before = 0 if job.progress is None else job.progress.total_bytes
        job.progress = progress
        if progress.total_bytes != before:
            self._note_all()
        job.changed_now()

    def _note_all(self) -> None:
        """Keep what has not ended; what ends because the server does has not."""
        if not self._closing:
            going = [
                job
                for job in self._jobs.values()
                if job.ended_ms is None and not job.cancelled.is_set()
            ]
            self._book.write([_noted(job) for job in going])

    def _end(self, job: Download, status: str, error: LmxError | None) -> None:
        if job.status not in ("running", "interrupted"):
            return
        job.status, job.error = status, error
        job.ended_ms = self._clock.now_ms()
        self._note_all()
        self._telemetry.log("info", "download ended", model=job.model, status=status)
        job.changed_now()
        self._forget_old()

    def _log_unforeseen(self, job: Download, cause: Exception) -> None:
        self._telemetry.log("error", "download broke", model=job.model, exc_info=cause)

    def _forget_old(self) -> None:
        """Drop the oldest of what has ended; what runs or may go on stays, however much it is."""
        ended = [job.id for job in self._jobs.values() if job.ended_ms is not None]
        for job_id in ended[: max(0, len(self._jobs) - _KEPT)]:
            del self._jobs[job_id]


def _cancelled() -> LmxError:
    return LmxError(ErrorKind.CONFLICT, "The download was cancelled.", code="cancelled")


def _noted(job: Download) -> Noted:
    known = 0 if job.pin is None else job.pin.total_bytes
    total = known if job.progress is None else job.progress.total_bytes or known
    return Noted(job.id, job.model, job.started_ms, total, job.pin)


def _interrupted(noted: Noted, held_bytes: int) -> Download:
    job = Download(noted.model, noted.started_ms, noted.id)
    job.status, job.pin = "interrupted", noted.pin
    job.progress = Progress(noted.model, "", held_bytes, noted.total_bytes, "downloading")
    return job
