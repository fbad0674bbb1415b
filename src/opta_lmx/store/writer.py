"""One thread writes: what waits together is committed together."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from sqlalchemy import Connection, Engine

from opta_lmx.store.engine import WRITES

Work = Callable[[Connection], Any]

MAX_BATCH = 256
"""Writes one commit may carry."""


class _Job:
    def __init__(self, work: Work) -> None:
        self.work = work
        self.done: Future[Any] = Future()
        self.result: Any = None
        self.error: BaseException | None = None

    def settle(self, failure: BaseException | None) -> None:
        """Tell the waiter; never before the commit."""
        error = self.error or failure
        if not self.done.set_running_or_notify_cancel():
            return
        if error is None:
            self.done.set_result(self.result)
        else:
            self.done.set_exception(error)


class Writer:
    """Runs writes in the order they come; each succeeds or fails by itself.

    Args:
        engine: of the database.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closing = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Work) -> "Future[Any]":
        """Queue a write; the future is settled once it is committed, or has failed.

        Raises:
            RuntimeError: the writer was closed.
        """
        job = _Job(work)
        with self._lock:
            if self._closing:
                raise RuntimeError("the writer is closed")
            self._jobs.put(job)
        return job.done

    def close(self) -> None:
        """Commit what is queued, then end the thread."""
        with self._lock:
            if not self._closing:
                self._closing = True
                self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            first = self._jobs.get()
            if first is None:
                return
            batch = [first]
            last = self._gather(batch)
            self._commit(batch)
            if last:
                return

    def _gather(self, batch: list[_Job]) -> bool:
        """Take what else waits; True when the end was among it."""
        while len(batch) < MAX_BATCH:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return False
            if job is None:
                return True
            batch.append(job)
        return False

    def _commit(self, batch: list[_Job]) -> None:
        failure: BaseException | None = None
        try:
            with self._engine.connect() as plain:
                connection = plain.execution_options(**{WRITES: True})
                with connection.begin():
                    for job in batch:
                        _attempt(connection, job)
        except Exception as error:  # noqa: BLE001 - the thread must outlive it, its callers learn of it
            failure = error
        for job in batch:
            job.settle(failure)


def _attempt(connection: Connection, job: _Job) -> None:
    """Run one write in a savepoint, so that its failure undoes nothing of the others."""
    savepoint = connection.begin_nested()
    try:
        job.result = job.work(connection)
        savepoint.commit()
    except Exception as error:  # noqa: BLE001 - whatever a write raises belongs to its caller
        job.error = error
        if savepoint.is_active:
            savepoint.rollback()
