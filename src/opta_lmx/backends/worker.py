"""The worker program: one model, one socket to the front, the engine on the main thread.

`python -m opta_lmx.backends.worker --fd N`. Three threads: the main thread owns the engine;
the reader takes frames off the socket; the text thread renders and tokenizes, so that a long
prompt never holds up a decode step. End of the socket ends the process at once.
"""

import argparse
import ctypes
import os
import queue
import resource
import signal
import socket
import sys
import threading
import traceback
from typing import NoReturn

from opta_lmx.backends.frames import (
    Cache,
    CacheChanged,
    Cancel,
    Embed,
    Fault,
    FrameBuffer,
    Load,
    Prepare,
    Prepared,
    Preparing,
    Released,
    Step,
    Submit,
    ToFront,
    ToWorker,
    Tune,
    encode,
    to_worker_decoder,
)
from opta_lmx.backends.gathering import Gathering
from opta_lmx.backends.protocol import (
    LONGEST_PIECE,
    Embedder,
    Engine,
    Holder,
    LoadError,
    PreparedPrompt,
    TextError,
    Texts,
)
from opta_lmx.backends.registry import check_draft, check_versions, create_engine
from opta_lmx.backends.shortage import OUT_OF_MEMORY, is_out_of_memory
from opta_lmx.core.clock import SystemClock
from opta_lmx.core.types import Prompt

_RECEIVE_BYTES = 1 << 18
_LOAD_FAILED_EXIT = 3
_STEP_FAILED_EXIT = 4


class Outbox:
    """Sends frames from any thread; what a step ends or keeps is told after its tokens."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self._held: list[bytes] = []
        self._holding = False

    def emit(self, frame: ToFront) -> None:
        """Send a frame now, or after the running step's own frame if it follows from that."""
        data = encode(frame)
        with self._lock:
            if self._holding and isinstance(frame, Released | Fault | CacheChanged):
                self._held.append(data)
            else:
                self._sock.sendall(data)

    def begin_step(self) -> None:
        """From here until `end_step`, what follows from tokens waits for the step's."""
        with self._lock:
            self._holding = True

    def end_step(self, step: Step | None) -> None:
        """Send the step, then everything held back, in one write."""
        parts = [encode(step)] if step is not None else []
        with self._lock:
            self._holding = False
            parts += self._held
            self._held.clear()
            if parts:
                self._sock.sendall(b"".join(parts))


class TextQueue:
    """Prompts waiting for the text thread; one whose client has gone is withdrawn."""

    def __init__(self) -> None:
        self._waiting: dict[int, Prepare] = {}
        self._changed = threading.Condition()

    def put(self, request: Prepare) -> None:
        """Add a prompt."""
        with self._changed:
            self._waiting[request.id] = request
            self._changed.notify()

    def get(self) -> Prepare:
        """Take the oldest prompt, waiting for one."""
        with self._changed:
            while not self._waiting:
                self._changed.wait()
            return self._waiting.pop(next(iter(self._waiting)))

    def withdraw(self, request: int) -> bool:
        """Forget a prompt; False when it is not waiting here."""
        with self._changed:
            return self._waiting.pop(request, None) is not None


def prompt_length(prompt: Prompt) -> int:
    """Characters of a prompt before its template adds to them; 0 for one given as tokens."""
    given = len(prompt.text or "") + len(prompt.suffix or "")
    return given + sum(len(message.content) for message in prompt.messages)


class Worker:
    """Moves frames between the socket, the engine and the text thread."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._out = Outbox(sock)
        self._commands: queue.SimpleQueue[ToWorker] = queue.SimpleQueue()
        self._texts = TextQueue()
        self._clock = SystemClock()
        self._gathering = Gathering(self._clock)

    def run(self) -> NoReturn:
        """Load the model named by the first frame, then serve until the socket ends."""
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        first = self._commands.get()
        if not isinstance(first, Load):
            _leave(_LOAD_FAILED_EXIT)
        try:
            engine = create_engine(first.backend, first.kind)
            check_draft(first)
            ready, texts = engine.load(first, self._out.emit)
            check_versions(first)
        except LoadError as error:
            self._fail(str(error), error.code, _LOAD_FAILED_EXIT, error.adapter)
        except Exception as error:  # noqa: BLE001  (boundary: any failure to load is told, then exit)
            traceback.print_exc()
            self._fail(f"{type(error).__name__}: {error}", "load_failed", _LOAD_FAILED_EXIT)
        threading.Thread(
            target=self._prepare, args=(texts, ready.context), name="text", daemon=True
        ).start()
        self._out.emit(ready)
        self._serve(engine)

    def _serve(self, engine: Engine) -> NoReturn:
        try:
            while True:
                self._apply_commands(engine)
                self._out.begin_step()
                self._out.end_step(engine.step())
        except Exception as error:  # noqa: BLE001  (boundary: a failed step means the batch is lost)
            traceback.print_exc()
            code = OUT_OF_MEMORY if is_out_of_memory(error) else "step_failed"
            self._fail(f"{type(error).__name__}: {error}", code, _STEP_FAILED_EXIT)

    def _apply_commands(self, engine: Engine) -> None:
        rested = not engine.busy
        wait_s = None if rested else 0.0
        began: float | None = None
        while True:
            try:
                command = self._commands.get(block=wait_s != 0.0, timeout=wait_s)
            except queue.Empty:
                return
            match command:
                case Submit():
                    self._gathering.settle(command.id)
                    began = self._clock.monotonic() if began is None else began
                    engine.submit(command)
                case Embed():
                    self._embed(engine, command)
                case Cancel():
                    engine.cancel(command)
                case Tune():
                    engine.tune(command)
                case Cache():
                    self._cache(engine, command)
                case _:
                    pass
            wait_s = self._gathering.left_s(began) if rested and began is not None else 0.0

    def _cache(self, engine: Engine, command: Cache) -> None:
        if isinstance(engine, Holder):
            engine.cache(command)
            return
        lost = (*command.drop, *(move.handle for move in command.load))
        unspilled = tuple(move.handle for move in command.spill)
        self._out.emit(CacheChanged(lost=lost, unspilled=unspilled))

    def _embed(self, engine: Engine, request: Embed) -> None:
        if isinstance(engine, Embedder):
            engine.embed(request)
            return
        self._out.emit(Fault("this model makes text, not vectors", "bad_request", request.id))
        self._out.emit(Released(request.id))

    def _read(self) -> None:
        buffer = FrameBuffer()
        try:
            while data := self._sock.recv(_RECEIVE_BYTES):
                for body in buffer.feed(data):
                    frame = to_worker_decoder.decode(body)
                    if isinstance(frame, Prepare):
                        self._gathering.expect(frame.id)
                        self._texts.put(frame)
                        continue
                    if isinstance(frame, Cancel):
                        self._gathering.settle(frame.id)
                    if not (isinstance(frame, Cancel) and self._texts.withdraw(frame.id)):
                        self._commands.put(frame)
        finally:
            _leave(0)

    def _prepare(self, texts: Texts, context: int) -> None:
        while True:
            request = self._texts.get()
            least = prompt_length(request.prompt) // LONGEST_PIECE
            if least > context:
                self._gathering.settle(request.id)
                self._out.emit(Prepared(request.id, at_least=least))
                continue
            self._out.emit(Preparing(request.id))
            try:
                answer = _prepared(request.id, texts.prepare(request.prompt, echo=request.echo))
            except TextError as error:
                param = error.param or _param_of(request.prompt)
                answer = Prepared(request.id, error=str(error), param=param)
            except Exception as error:  # noqa: BLE001  (boundary: model-supplied templates can raise anything)
                traceback.print_exc()
                words = f"{type(error).__name__}: {error}"
                answer = Prepared(request.id, error=words, param=_param_of(request.prompt))
            if answer.error is not None or answer.at_least:
                self._gathering.settle(request.id)
            self._out.emit(answer)

    def _fail(self, message: str, code: str, status: int, adapter: str = "") -> NoReturn:
        try:
            self._out.end_step(None)
            self._out.emit(Fault(message, code, adapter=adapter))
        finally:
            _leave(status)


def _prepared(request: int, prompt: PreparedPrompt) -> Prepared:
    return Prepared(
        request,
        prompt.ids,
        prompt.cuts,
        prompt.anchors,
        thinking=prompt.thinking,
        text=prompt.text,
        at_least=prompt.at_least,
    )


def _param_of(prompt: Prompt) -> str:
    """The request field that a prompt comes from."""
    return "messages" if prompt.text is None and prompt.ids is None else "prompt"


def _leave(status: int) -> NoReturn:
    """Exit without teardown: freeing a loaded llama.cpp server can deadlock, exiting cannot."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _die_with_parent() -> None:
    """On Linux ask the kernel to kill us with the front, even while native code holds the GIL."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def main() -> NoReturn:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="opta_lmx.backends.worker")
    parser.add_argument("--fd", type=int, required=True)
    arguments = parser.parse_args()
    _die_with_parent()
    # Whoever starts us: prompts must not be left in a core file.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A group of its own keeps a terminal's Ctrl-C away from us. Not a session: Linux schedules
    # sessions against each other, and the front then waits behind a busy worker.
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A service manager stops every process at once; answers still run while the front drains.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Worker(socket.socket(fileno=arguments.fd)).run()


if __name__ == "__main__":
    main()
