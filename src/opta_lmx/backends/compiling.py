"""Grammars compile on a thread of their own, one after another, while the engine goes on."""

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from opta_lmx.core.clock import SystemClock

UNUSABLE = "its schemas are too large together, or ask what this model's vocabulary cannot say"
"""What a caller is told of a grammar that does not compile; the library's words are no help."""

_Made = TypeVar("_Made")


class Compilation(msgspec.Struct, Generic[_Made], frozen=True):
    """What a request's grammar became, in `took_s` seconds."""

    request: int
    made: _Made
    took_s: float


class Compiler(Generic[_Made]):
    """Compiles in the background, in order; what nobody waits for any more is left out.

    Args:
        make: compiles one grammar, on the thread; it must not raise.
    """

    def __init__(self, make: Callable[[str], _Made]) -> None:
        self._make = make
        self._clock = SystemClock()
        self._wanted: dict[int, str] = {}
        self._asked: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Compilation[_Made]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def ask(self, request: int, grammar: str) -> None:
        """Begin compiling; `take` returns the result."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="grammars", daemon=True)
            self._thread.start()
        self._wanted[request] = grammar
        self._asked.put(request)

    def forget(self, request: int) -> None:
        """Leave out a request's grammar, unless it is compiling already or done."""
        self._wanted.pop(request, None)

    def take(self, wait_s: float) -> list[Compilation[_Made]]:
        """Return what is ready, waiting up to `wait_s` for the first."""
        ready: list[Compilation[_Made]] = []
        try:
            ready.append(self._done.get(timeout=wait_s) if wait_s else self._done.get_nowait())
            while True:
                ready.append(self._done.get_nowait())
        except queue.Empty:
            return ready

    def _run(self) -> None:
        while True:
            request = self._asked.get()
            grammar = self._wanted.pop(request, None)
            if grammar is None:
                continue
            began = self._clock.monotonic()
            made = self._make(grammar)
            self._done.put(Compilation(request, made, self._clock.monotonic() - began))
