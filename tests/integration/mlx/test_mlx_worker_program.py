"""The worker program over its socket: states, their files, and what a killed worker leaves."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from opta_lmx.backends.frames import (
    Cache,
    CacheChanged,
    FrameBuffer,
    Keep,
    Load,
    Move,
    Ready,
    Released,
    Reuse,
    Step,
    Submit,
    ToFront,
    ToWorker,
    encode,
    to_front_decoder,
)
from opta_lmx.backends.mlx.environment import worker_environment
from tests.integration.mlx.conftest import GREEDY, prompt
from tests.support.tiny import tiny_llama

pytestmark = pytest.mark.engine

ROOT = Path(__file__).resolve().parents[3]
IDS = prompt(400, 1)


class Program:
    """One worker process; frames are read as they come."""

    def __init__(self) -> None:
        self._sock, theirs = socket.socketpair()
        with theirs:
            environment = worker_environment(ROOT / ".cache" / "mlx").variables
            self.process = subprocess.Popen(
                [sys.executable, "-m", "opta_lmx.backends.worker", "--fd", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=os.environ | environment,
                cwd=ROOT,
            )
        self._sock.settimeout(60)
        self._buffer = FrameBuffer()
        self._pending: list[ToFront] = []
        self.seen: list[ToFront] = []

    def send(self, *frames: ToWorker) -> None:
        self._sock.sendall(b"".join(encode(frame) for frame in frames))

    def until(self, kind: type[ToFront]) -> ToFront:
        """The next frame of a kind."""
        while True:
            while not self._pending:
                data = self._sock.recv(1 << 16)
                assert data, "the worker has gone"
                self._pending += map(to_front_decoder.decode, self._buffer.feed(data))
            frame = self._pending.pop(0)
            self.seen.append(frame)
            if isinstance(frame, kind):
                return frame

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=10)
        self._sock.close()


@pytest.fixture
def programs() -> Iterator[list[Program]]:
    started: list[Program] = []
    yield started
    for program in started:
        if program.process.poll() is None:
            program.kill()


def begin(programs: list[Program]) -> Program:
    program = Program()
    programs.append(program)
    program.send(Load("tiny", "mlx", path=str(tiny_llama()), slots=2))
    program.until(Ready)
    return program


def answer(program: Program, reuse: Reuse | None = None) -> tuple[list[int], int]:
    """The answer to IDS, and how many tokens of it were cached."""
    program.seen.clear()
    program.send(Submit(1, IDS, GREEDY, 12, reuse=reuse))
    program.until(Released)
    steps = [frame for frame in program.seen if isinstance(frame, Step)]
    cached = [started.cached for step in steps for started in step.started]
    return [token.id for step in steps for token in step.tokens], cached[0]


def test_states_over_the_wire_and_over_a_kill(programs: list[Program], tmp_path: Path) -> None:
    first = begin(programs)
    first.send(Submit(1, IDS, GREEDY, 12, keep=(Keep(1, 390),), keep_end=2))
    first.until(Released)
    # Told in this order: tokens, what was kept of them, the end.
    last = [type(frame) for frame in first.seen[-3:]]
    assert last == [Step, CacheChanged, Released]
    kept = [k for f in first.seen if isinstance(f, CacheChanged) for k in f.kept]
    assert [(each.handle, each.tokens) for each in kept] == [(1, 390), (2, 412)]
    whole = [token.id for f in first.seen if isinstance(f, Step) for token in f.tokens]
    paths = [tmp_path / f"{number}.kv" for number in range(60)]
    first.send(Cache(spill=(Move(1, str(paths[0])),)))
    done = first.until(CacheChanged)
    assert isinstance(done, CacheChanged)
    assert [each.handle for each in done.spilled] == [1]
    # Many more under way when it dies.
    for path in paths[1:]:
        first.send(Cache(spill=(Move(1, str(path)),)), Cache(spill=(Move(2, str(path)),)))
    first.until(CacheChanged)
    first.kill()

    second = begin(programs)
    assert answer(second) == (whole, 0)
    files = sorted(path for path in tmp_path.iterdir() if path.suffix == ".kv")
    for handle, path in enumerate([*files, tmp_path / "none"], start=10):
        second.send(Cache(load=(Move(handle, str(path)),)))
        changed = second.until(CacheChanged)
        assert isinstance(changed, CacheChanged)
        if path.exists():
            assert [each.handle for each in changed.kept] == [handle]
            tokens = min(changed.kept[0].tokens, 399)
            assert answer(second, Reuse(handle, tokens)) == (whole, tokens)
        else:
            assert changed.lost == (handle,)
