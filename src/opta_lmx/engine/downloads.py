"""Downloads asked for over HTTP: one thread each, watched by whoever likes, cancellable."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.ids import random_id
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.models.progress import Progress

Pull = Callable[[str, Callable[[Progress], None], threading.Event], object]
"""Fetches a model by reference on the calling thread, reporting progress until cancelled."""

_KEPT = 100


class Download:
    """One download and how far it has got."""

    def __init__(self, model: str) -> None:
        self.id = random_id("dl-")
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
    """The downloads of this run; two requests for one model share one download."""

    def __init__(self, pull: Pull, telemetry: Telemetry) -> None:
        self._pull = pull
        self._telemetry = telemetry
        self._jobs: dict[str, Download] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, model: str) -> Download:
        """Begin, or join the running download of the same model."""
        for job in self._jobs.values():
            if job.model == model and job.status == "running":
                return job
        job = Download(model)
        self._jobs[job.id] = job
        while len(self._jobs) > _KEPT:
            del self._jobs[next(iter(self._jobs))]
        task = asyncio.create_task(self._run(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
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
        """Ask a download to stop; it ends within a moment."""
        job = self.get(download_id)
        job.cancelled.set()
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
        """Stop everything; partial files stay for a later resume."""
        for job in self._jobs.values():
            job.cancelled.set()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _run(self, job: Download) -> None:
        loop = asyncio.get_running_loop()

        def note(progress: Progress) -> None:
            job.progress = progress
            job.changed_now()

        def on_progress(progress: Progress) -> None:
            loop.call_soon_threadsafe(note, progress)

        try:
            await asyncio.to_thread(self._pull, job.model, on_progress, job.cancelled)
            job.status = "completed"
        except LmxError as error:
            job.error = error
            job.status = "cancelled" if error.code == "cancelled" else "failed"
        self._telemetry.log("info", "download ended", model=job.model, status=job.status)
        job.changed_now()
