"""Runs the HTTP streams of all requests on an event loop in a thread of its own."""

import asyncio
import threading
from collections.abc import Callable
from http.client import HTTPException

import msgspec

from opta_lmx.backends.frames import Drafted, TokenOut
from opta_lmx.backends.gguf.completion import (
    BeginningReader,
    CompletionReader,
    EngineAnswerError,
    Progress,
    failure,
)
from opta_lmx.backends.gguf.http import OK, EventStream, call
from opta_lmx.core.clock import SystemClock

_FIRST_POLL_S = 0.005
_LONGEST_POLL_S = 0.02


class Ended(msgspec.Struct, frozen=True):
    """A request is over and its slot idle; `error` says what went wrong, if anything did."""

    request: int
    error: EngineAnswerError | None = None


Happening = Progress | Drafted | TokenOut | Ended


class Job(msgspec.Struct, frozen=True):
    """One request as the streams need it."""

    request: int
    slot: int
    body: bytes
    reader: CompletionReader | BeginningReader


class Streams:
    """Starts and cancels streams; hands over what happened, in bundles.

    `deliver` is called on the streams' own thread.
    """

    def __init__(self, path: str, deliver: Callable[[list[Happening]], None]) -> None:
        self._path = path
        self._deliver = deliver
        self._bundle: list[Happening] = []
        self._open: dict[int, EventStream] = {}
        self._running: set[int] = set()
        self._cancelled: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="llama-http", daemon=True).start()

    def start(self, job: Job) -> None:
        """Begin a stream; callable from any thread."""
        self._loop.call_soon_threadsafe(self._begin, job)

    def cancel(self, request: int) -> None:
        """Drop a stream; `Ended` follows when its slot is idle. Callable from any thread."""
        self._loop.call_soon_threadsafe(self._drop, request)

    def _begin(self, job: Job) -> None:
        self._running.add(job.request)
        task = self._loop.create_task(self._run(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _drop(self, request: int) -> None:
        if request not in self._running:
            return
        self._cancelled.add(request)
        if stream := self._open.get(request):
            stream.close()

    async def _run(self, job: Job) -> None:
        error = await self._exchange(job)
        if not job.reader.finished:
            # llama.cpp notices a dropped connection between two batches at the earliest.
            await self._idle(job.slot)
        cancelled = job.request in self._cancelled
        self._running.discard(job.request)
        self._cancelled.discard(job.request)
        self._happened(Ended(job.request, None if cancelled else error))

    async def _exchange(self, job: Job) -> EngineAnswerError | None:
        """Run the stream to its end; return what went wrong."""
        over: asyncio.Future[EngineAnswerError | None] = self._loop.create_future()

        def settle(error: EngineAnswerError | None) -> None:
            if not over.done():
                over.set_result(error)

        def read(data: bytes) -> None:
            if over.done():
                return
            try:
                for item in job.reader.feed(data):
                    self._happened(item)
            except EngineAnswerError as error:
                settle(error)
            if job.reader.finished:
                settle(None)

        def closed(status: int, body: bytes) -> None:
            early = EngineAnswerError("llama.cpp ended the answer early")
            settle(early if status in (0, OK) else failure(status, body))

        if job.request in self._cancelled:
            return None
        stream = EventStream("/completion", job.body, read, closed)
        try:
            self._open[job.request] = stream
            await self._loop.create_unix_connection(lambda: stream, self._path)
            if job.request in self._cancelled:
                stream.close()
            return await over
        except OSError as error:
            return EngineAnswerError(f"llama.cpp cannot be reached: {error}")
        finally:
            del self._open[job.request]
            stream.close()

    async def _idle(self, slot: int) -> None:
        """Wait until llama.cpp itself calls the slot idle."""
        pause = _FIRST_POLL_S
        while await asyncio.to_thread(self._is_processing, slot):
            await SystemClock().sleep(pause)
            pause = min(pause * 2, _LONGEST_POLL_S)

    def _is_processing(self, slot: int) -> bool:
        try:
            slots = call(self._path, "/slots")
        except (OSError, HTTPException, EngineAnswerError):
            return True
        return any(each["id"] == slot and each["is_processing"] for each in slots)

    def _happened(self, item: Happening) -> None:
        if not self._bundle:
            # What arrives in one turn of the loop travels together.
            self._loop.call_soon(self._flush)
        self._bundle.append(item)

    def _flush(self) -> None:
        bundle, self._bundle = self._bundle, []
        self._deliver(bundle)
