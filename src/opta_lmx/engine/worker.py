"""One live worker as the front sees it: requests in flight, replies awaited, signs of life."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from opta_lmx.backends.frames import (
    Announce,
    Cache,
    CacheChanged,
    Cancel,
    Embed,
    Embedded,
    Fault,
    Load,
    Log,
    Prepare,
    Prepared,
    Preparing,
    Ready,
    Released,
    Step,
    Submit,
    ToFront,
    Tune,
)
from opta_lmx.backends.protocol import ADAPTER_CHANGED
from opta_lmx.backends.shortage import OUT_OF_MEMORY
from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError, invalid, unsupported
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.engine.adapting import adapter_changed, setting_of
from opta_lmx.engine.process import WorkerProcess, start_worker
from opta_lmx.engine.stream import TokenStream

WORKER_DIED = "worker_died"
_OF_STEPS = ("step_failed", OUT_OF_MEMORY)
"""Codes of faults that end a worker which has loaded its model."""


def worker_died(model: str) -> LmxError:
    """The error every request in a dead worker gets."""
    return LmxError(
        ErrorKind.INTERNAL,
        f"The worker of model '{model}' stopped unexpectedly; it is being restarted.",
        code=WORKER_DIED,
    )


class WatchdogLimits(msgspec.Struct, frozen=True):
    """How long silence may last: the larger of `floor_s` and `factor` times the announced cost."""

    floor_s: float
    factor: float


class WorkerEvents(msgspec.Struct, frozen=True):
    """Who is told what of a worker.

    `heard` of every frame, before anybody acts on it; `stepped` of every step, after its tokens
    have gone to their streams; `released` of a request whose slot is free again; `died`, once,
    when the socket ends.
    """

    heard: Callable[[ToFront], None]
    stepped: Callable[[Step], None]
    released: Callable[[int], None]
    died: Callable[[], None]


class Preparation:
    """A prompt being rendered: when its turn on the worker's text thread came, and the result."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.begun: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[Prepared] = loop.create_future()

    def fail(self, reason: LmxError) -> None:
        """End the wait, whatever it waits for."""
        waited_for = self.done if self.begun.done() else self.begun
        if not waited_for.done():
            waited_for.set_exception(reason.again())


class StepTimes:
    """How long steps take of late (ms): those that only decode, and those with a piece of prompt.

    Old ones fade; 0 before the first of its kind.
    """

    __slots__ = ("decode_ms", "prefill_ms")
    _NEW = 0.1

    def __init__(self) -> None:
        self.decode_ms = self.prefill_ms = 0.0

    def add(self, step: Step) -> None:
        """Take in a step."""
        if step.prefill:
            self.prefill_ms += (step.ms - self.prefill_ms) * (self._NEW if self.prefill_ms else 1.0)
        else:
            self.decode_ms += (step.ms - self.decode_ms) * (self._NEW if self.decode_ms else 1.0)


class WorkerHandle:
    """Speaks the frame protocol with one worker process.

    Args:
        load: what the worker is to load.
        clock: time, for the watchdog.
        telemetry: where log frames and step times go.
        events: who is told what.
    """

    def __init__(
        self,
        load: Load,
        clock: Clock,
        telemetry: Telemetry,
        events: WorkerEvents,
    ) -> None:
        self.load = load
        self._clock = clock
        self._telemetry = telemetry
        self._events = events
        self._process: WorkerProcess | None = None
        self._ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._streams: dict[int, TokenStream] = {}
        self._embedding: dict[int, asyncio.Future[Embedded]] = {}
        self._preparing: dict[int, Preparation] = {}
        self._last_sign = clock.monotonic()
        self._predicted_s = 0.0
        self._fatal: Fault | None = None
        self._reason: LmxError | None = None
        self.dead = False
        self.steps = 0
        self.step_times = StepTimes()

    async def start(self, environment: Mapping[str, str], log_file: Path) -> Ready:
        """Start the process and load the model. Raises LmxError when it cannot be loaded."""
        self._process = await start_worker(
            environment=environment,
            log_file=log_file,
            on_frame=self._receive,
            on_lost=self._lost,
        )
        self._process.link.send(self.load)
        return await self._ready

    @property
    def pid(self) -> int | None:
        """Process id once started."""
        return None if self._process is None else self._process.pid

    @property
    def exit_status(self) -> int | None:
        """How the process ended: status, or minus the signal; None while it runs."""
        return None if self._process is None else self._process.exit_status

    @property
    def fault(self) -> Fault | None:
        """What the worker itself said of its end."""
        return self._fatal

    @property
    def refused(self) -> bool:
        """True when the worker itself said that the model cannot be loaded."""
        return self._fatal is not None and self._fatal.code not in _OF_STEPS

    async def prepare(self, request: Prepare, limit_s: float) -> Prepared:
        """Render and tokenize in the worker.

        Raises:
            LmxError: INVALID_REQUEST when it cannot be done; what ended the worker.
            TimeoutError: it was begun and did not end within `limit_s`.
        """
        ticket = request.id
        self._send(request)
        work = self._preparing[ticket] = Preparation()
        try:
            await work.begun
            async with asyncio.timeout(limit_s):
                prepared = await work.done
        except asyncio.CancelledError:
            self.cancel(Cancel(ticket))
            raise
        finally:
            self._preparing.pop(ticket, None)
        if prepared.error is not None:
            raise _refused(prepared.error, prepared.param)
        return prepared

    async def embed(self, request: Embed) -> Embedded:
        """Hand inputs to the engine; the slot is held until `Released`, but for a mere count.

        Raises:
            LmxError: what the engine said of them, or what ended the worker.
        """
        self._send(request)
        done: asyncio.Future[Embedded] = asyncio.get_running_loop().create_future()
        self._embedding[request.id] = done
        try:
            return await done
        except asyncio.CancelledError:
            if request.count:
                self.cancel(Cancel(request.id))
            raise
        finally:
            if request.count:
                self._embedding.pop(request.id, None)

    def submit(self, request: Submit, stream: TokenStream) -> None:
        """Hand a request to the engine; its slot is held until `Released`.

        When the worker dies, its streams are left as they are: who is told of the death decides.
        """
        self._send(request)
        self._streams[request.id] = stream

    def cancel(self, request: Cancel) -> None:
        """Stop a request at any stage; a slot it holds comes back with `Released`."""
        if not self.dead and self._process is not None:
            self._process.link.send(request)

    def cache(self, command: Cache) -> None:
        """Say what becomes of held states; without effect on a dead worker, which holds none."""
        if not self.dead and self._process is not None:
            self._process.link.send(command)

    def tune(self, settings: Tune) -> None:
        """Change a live setting of the engine."""
        self._send(settings)

    def overdue(self, limits: WatchdogLimits) -> bool:
        """True when there is work but the worker has been silent for too long.

        A prompt that is being prepared has a limit of its own.
        """
        if self.dead or not (self._computing or self._awaits_preparing):
            return False
        allowed = max(limits.floor_s, limits.factor * self._predicted_s)
        return self._clock.monotonic() - self._last_sign > allowed

    def step_age_s(self) -> float:
        """Seconds since the engine's last sign of life while requests run, else 0."""
        return self._clock.monotonic() - self._last_sign if self._computing else 0.0

    @property
    def working(self) -> bool:
        """True while it owes anybody an answer, be it a prepared prompt."""
        return not self.dead and (self._computing or bool(self._preparing))

    @property
    def _computing(self) -> bool:
        """True while the engine holds any request."""
        return bool(self._streams or self._embedding)

    @property
    def _awaits_preparing(self) -> bool:
        """True while prompts wait for the text thread and none is on it."""
        works = self._preparing.values()
        return bool(works) and not any(work.begun.done() for work in works)

    async def kill(self, reason: LmxError | None = None) -> None:
        """End the process; every waiter gets `reason`, or that the worker died."""
        self._reason = self._reason or reason
        if self._process is not None:
            await self._process.kill()
        self._lost()

    def _send(self, frame: Prepare | Submit | Embed | Tune) -> None:
        if self.dead or self._process is None:
            raise worker_died(self.load.model)
        if not self._computing:
            self._last_sign = self._clock.monotonic()
        self._process.link.send(frame)

    def _receive(self, frame: ToFront) -> None:
        self._events.heard(frame)
        match frame:
            case Step():
                self._take_step(frame)
            case Released():
                self._streams.pop(frame.id, None)
                self._embedding.pop(frame.id, None)
                self._events.released(frame.id)
            case Embedded():
                self._take_vectors(frame)
            case Preparing() | Prepared():
                self._take_preparation(frame)
            case Announce():
                self._last_sign = self._clock.monotonic()
                self._predicted_s = frame.predicted_s
            case Ready():
                if not self._ready.done():
                    self._ready.set_result(frame)
            case Fault():
                self._take_fault(frame)
            case CacheChanged():
                pass
            case Log():
                self._telemetry.log(frame.level, frame.event, model=self.load.model, **frame.fields)

    def _take_preparation(self, frame: Preparing | Prepared) -> None:
        self._begin(frame.id)
        work = self._preparing.get(frame.id)
        if isinstance(frame, Prepared) and work is not None and not work.done.done():
            work.done.set_result(frame)

    def _begin(self, ticket: int) -> None:
        self._last_sign = self._clock.monotonic()
        work = self._preparing.get(ticket)
        if work is not None and not work.begun.done():
            work.begun.set_result(None)

    def _take_step(self, step: Step) -> None:
        self._last_sign = self._clock.monotonic()
        self._predicted_s = 0.0
        self.steps += 1
        self.step_times.add(step)
        streams = self._streams
        for started in step.started:
            stream = streams.get(started.request)
            if stream is not None:
                stream.begin(started.cached)
        for drafted in step.drafts:
            stream = streams.get(drafted.request)
            if stream is not None:
                stream.guess(drafted.tokens, drafted.accepted)
        for token in step.tokens:
            stream = streams.get(token.request)
            if stream is not None:
                stream.push(token)
        self._events.stepped(step)

    def _take_vectors(self, frame: Embedded) -> None:
        self._last_sign = self._clock.monotonic()
        done = self._embedding.get(frame.id)
        if done is not None and not done.done():
            done.set_result(frame)

    def _take_fault(self, fault: Fault) -> None:
        if fault.id is None:
            self._fatal = fault
            self._telemetry.log(
                "error",
                "worker fault",
                model=self.load.model,
                code=fault.code,
                reason=fault.message,
            )
            return
        kind = ErrorKind.INVALID_REQUEST if fault.code == "bad_request" else ErrorKind.INTERNAL
        error = LmxError(kind, fault.message, code=fault.code)
        stream, done = self._streams.get(fault.id), self._embedding.get(fault.id)
        if stream is not None:
            stream.fail(error)
        if done is not None and not done.done():
            done.set_exception(error)

    def _lost(self) -> None:
        if self.dead:
            return
        self.dead = True
        if not self._ready.done():
            self._ready.set_exception(self._load_error())
            self._ready.exception()  # a start that was cancelled has nobody left to read it
        reason = self._reason or worker_died(self.load.model)
        for done in self._embedding.values():
            if not done.done():
                done.set_exception(reason.again())
        for work in self._preparing.values():
            work.fail(reason)
        self._streams.clear()
        self._embedding.clear()
        self._events.died()

    def _load_error(self) -> LmxError:
        fault = self._fatal
        if fault is None:
            return LmxError(
                ErrorKind.UNAVAILABLE,
                f"The worker of model '{self.load.model}' ended while loading.",
                code="load_crashed",
                param="model",
            )
        model = self.load.model
        if fault.code == ADAPTER_CHANGED:
            return adapter_changed(model, fault.adapter)
        ours = fault.code == "canary_failed" or fault.code in _OF_STEPS
        return LmxError(
            ErrorKind.UNAVAILABLE if ours else ErrorKind.INVALID_REQUEST,
            f"Model '{model}' cannot be loaded: {fault.message}",
            code=fault.code,
            param=setting_of(model, fault.adapter) if fault.adapter else "model",
        )


def _refused(reason: str, param: str) -> LmxError:
    """A prompt that cannot be made: a suffix is beyond the model, anything else is wrong."""
    if param == "suffix":
        return unsupported(reason, param)
    return invalid(reason, param=param, code="invalid_prompt")
