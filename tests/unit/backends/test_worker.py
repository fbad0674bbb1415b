"""The worker's ways with the front: what follows from a step comes after it."""

import socket
from collections.abc import Iterator

import pytest

from opta_lmx.backends.frames import (
    Announce,
    Cache,
    CacheChanged,
    Fault,
    FrameBuffer,
    Kept,
    Move,
    Released,
    Step,
    ToFront,
    to_front_decoder,
)
from opta_lmx.backends.worker import Outbox, Worker


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


def received(sock: socket.socket) -> list[ToFront]:
    sock.setblocking(False)
    bodies = FrameBuffer().feed(sock.recv(1 << 16))
    return [to_front_decoder.decode(body) for body in bodies]


def test_what_a_step_ends_and_keeps_is_told_after_it(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    out, step = Outbox(pair[0]), Step(1, 2.0)
    ends = [CacheChanged(kept=(Kept(1, 2, 3),)), Fault("no", "step_failed", 4), Released(4)]
    out.begin_step()
    for frame in (*ends, Announce("prefill", 1.0)):
        out.emit(frame)
    out.end_step(step)
    out.emit(CacheChanged(lost=(1,)))
    assert received(pair[1]) == [Announce("prefill", 1.0), step, *ends, CacheChanged(lost=(1,))]


def test_an_engine_without_states_has_lost_them_all(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    worker = Worker(pair[0])
    moves = (Move(3, "there"), Move(4, "here"))
    worker._cache(object(), Cache((1, 2), moves[:1], moves[1:]))  # type: ignore[arg-type]
    assert received(pair[1]) == [CacheChanged(lost=(1, 2, 4), unspilled=(3,))]
