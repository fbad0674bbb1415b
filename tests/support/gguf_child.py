"""Runs the real worker program with the llama.cpp adapter and speaks frames with it.

A llama.cpp server can never be destroyed, so each model under test has a process of its own.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

from opta_lmx.backends.frames import (
    Cancel,
    Fault,
    FrameBuffer,
    Load,
    Prepare,
    Prepared,
    Ready,
    Released,
    Step,
    Submit,
    ToFront,
    TokenOut,
    encode,
    to_front_decoder,
)
from opta_lmx.core.types import Prompt, SamplingParams

GREEDY = SamplingParams(temperature=0.0, top_p=1.0, top_k=0, min_p=0.0)
LIMIT_S = 120.0


class Child:
    """One worker process; frames it sent are kept in `frames`, in order."""

    def __init__(self, path: Path | str, **load: Any) -> None:
        self.frames: list[ToFront] = []
        self.times: list[float] = []
        self._buffer = FrameBuffer()
        self._next_id = 0
        self._dir = tempfile.TemporaryDirectory(prefix="lmx")
        self._sock, theirs = socket.socketpair()
        command = [sys.executable, "-m", "opta_lmx.backends.worker", "--fd", str(theirs.fileno())]
        self.process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        theirs.close()
        spec = {"slots": 4, "threads": 1, "runtime_dir": self._dir.name, **load}
        self.runtime_dir = str(spec["runtime_dir"])
        self.send(Load(model="test", backend="gguf", path=str(path), **spec))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._dir.cleanup()

    def send(self, *frames: Any) -> None:
        """Send frames in one piece: nothing comes between them."""
        self._sock.sendall(b"".join(encode(frame) for frame in frames))

    def read_until(self, done: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
        """Receive frames until `done()`; fails when the worker ends or takes too long."""
        deadline = time.monotonic() + limit_s
        while not done():
            self._sock.settimeout(max(0.01, deadline - time.monotonic()))
            data = self._sock.recv(1 << 18)
            if not data:
                raise AssertionError(f"the worker ended; its last frames: {self.frames[-3:]}")
            for body in self._buffer.feed(data):
                self.frames.append(to_front_decoder.decode(body))
                self.times.append(time.monotonic())

    def ready(self) -> Ready:
        """Wait for the model."""
        self.read_until(lambda: bool(self.of(Ready, Fault)))
        (frame,) = self.of(Ready, Fault)
        assert isinstance(frame, Ready), frame
        return frame

    def fault(self) -> Fault:
        """Wait for the worker's only fault."""
        self.read_until(lambda: bool(self.of(Fault)))
        (frame,) = self.of(Fault)
        return frame

    def prepare(self, prompt: Prompt) -> Prepared:
        self._next_id += 1
        number = self._next_id
        self.send(Prepare(number, prompt))
        self.read_until(lambda: any(frame.id == number for frame in self.of(Prepared)))
        return next(frame for frame in self.of(Prepared) if frame.id == number)

    def ids(self, text: str) -> tuple[int, ...]:
        prepared = self.prepare(Prompt(text=text))
        assert prepared.error is None, prepared.error
        return prepared.ids

    def submit(
        self,
        ids: Iterable[int],
        max_tokens: int = 16,
        sampling: SamplingParams = GREEDY,
        top_logprobs: int | None = None,
        **more: Any,
    ) -> int:
        """`more`: `grammar` and `logit_bias` as in `Submit`."""
        request = self.request(ids, max_tokens, sampling, top_logprobs, **more)
        self.send(request)
        return request.id

    def request(
        self,
        ids: Iterable[int],
        max_tokens: int = 16,
        sampling: SamplingParams = GREEDY,
        top_logprobs: int | None = None,
        **more: Any,
    ) -> Submit:
        """Make a request and do not send it yet."""
        self._next_id += 1
        return Submit(self._next_id, tuple(ids), sampling, max_tokens, top_logprobs, **more)

    def cancel(self, number: int) -> None:
        self.send(Cancel(number))

    def wait(self, *numbers: int, limit_s: float = LIMIT_S) -> None:
        """Wait until all these requests are released."""
        wanted = set(numbers)
        self.read_until(lambda: wanted <= {frame.id for frame in self.of(Released)}, limit_s)

    def generate(self, ids: Iterable[int], **submit: Any) -> list[TokenOut]:
        number = self.submit(ids, **submit)
        self.wait(number)
        return self.tokens(number)

    def of(self, *kinds: type) -> list[Any]:
        """Frames of these kinds, so far."""
        return [frame for frame in self.frames if isinstance(frame, kinds)]

    def tokens(self, number: int) -> list[TokenOut]:
        return [out for step in self.of(Step) for out in step.tokens if out.request == number]

    def text(self, number: int) -> str:
        return b"".join(out.piece for out in self.tokens(number)).decode()

    def started(self, number: int) -> list[int]:
        """The `cached` count of each `Started` of a request: one at most."""
        steps = self.of(Step)
        return [item.cached for step in steps for item in step.started if item.request == number]

    def prefill(self, number: int) -> list[tuple[int, int]]:
        """(done, total) reports of a request."""
        steps = self.of(Step)
        return [(done, n) for step in steps for r, done, n in step.prefill if r == number]

    def when(self, kind: type, number: int) -> float:
        """Monotonic time at which the frame of this kind and id arrived."""
        pairs = zip(self.frames, self.times, strict=True)
        return next(at for frame, at in pairs if isinstance(frame, kind) and frame.id == number)


NEAR = 0.2
"""In log probability: the choice between tokens this close depends on the batch."""


def assert_the_models_own(child: Child, ids: tuple[int, ...], answer: list[int]) -> None:
    """Each token is the best after those before it, or as good as that."""
    at = 0
    while at < len(answer):
        number = child.submit(
            ids, len(answer), top_logprobs=8, generated=tuple(answer[:at]), salt=str(at)
        )
        child.wait(number)
        for out in child.tokens(number):
            assert out.top is not None
            near = [top.id for top in out.top if top.logprob >= out.top[0].logprob - NEAR]
            assert answer[at] in near
            at += 1
            if out.id != answer[at - 1]:
                break
