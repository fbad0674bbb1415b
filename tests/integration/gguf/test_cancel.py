"""Cancelling at every stage: the slot is free when llama.cpp says so, and soon."""

import random
import time

import pytest

from opta_lmx.backends.frames import Fault, Released
from tests.support.gguf_child import Child
from tests.support.tiny import tiny_gguf

pytestmark = [pytest.mark.engine, pytest.mark.alone]
DECODE_LIMIT_S = 1.0
PREFILL_LIMIT_S = 2.0


def cancel_and_time(child: Child, number: int) -> float:
    """Seconds from the cancel to the engine's own `Released`."""
    began = time.monotonic()
    child.cancel(number)
    child.wait(number)
    return child.when(Released, number) - began


def test_in_mid_prefill(long: Child) -> None:
    ids = (2, *(5000 + place * 7919 % 100_000 for place in range(2400)))
    number = long.submit(ids, max_tokens=8)
    long.read_until(lambda: len(long.prefill(number)) >= 3)
    assert cancel_and_time(long, number) <= PREFILL_LIMIT_S
    done, total = long.prefill(number)[-1]
    assert done < total == 2401
    assert long.tokens(number) == []
    assert long.of(Fault) == []
    assert len(long.generate(ids[:20], max_tokens=4)) == 4


def test_in_mid_decode(long: Child) -> None:
    number = long.submit(range(2, 30), max_tokens=2000)
    long.read_until(lambda: len(long.tokens(number)) >= 5)
    assert cancel_and_time(long, number) <= DECODE_LIMIT_S
    assert all(out.finish is None for out in long.tokens(number))


def test_before_it_began(starter: Child) -> None:
    number = starter.submit(range(100, 200), max_tokens=500)
    assert cancel_and_time(starter, number) <= DECODE_LIMIT_S
    assert starter.tokens(number) == []


def test_one_of_four_leaves_the_others_alone(starter: Child) -> None:
    prompts = [starter.ids(text) for text in ("Once", "The sea", "My cat", "In Paris")]
    numbers = [starter.submit(ids, max_tokens=20) for ids in prompts]
    starter.read_until(lambda: len(starter.tokens(numbers[1])) >= 2)
    starter.cancel(numbers[1])
    starter.wait(*numbers)
    for number in (numbers[0], *numbers[2:]):
        assert starter.tokens(number)[-1].finish is not None
    assert len(starter.tokens(numbers[1])) < 20


def test_unknown_and_ended_requests_are_ignored(starter: Child) -> None:
    number = starter.submit(range(100, 110), max_tokens=2)
    starter.wait(number)
    starter.cancel(number)
    starter.cancel(999_999)
    assert len(starter.generate(range(100, 110), max_tokens=2)) == 2
    assert [frame.id for frame in starter.of(Released)].count(number) == 1


def test_while_waiting_for_cache_room() -> None:
    with Child(tiny_gguf(), context=512, options={"kv_bytes": 1}) as child:
        assert child.ready().slots == 4
        running = child.submit(range(100, 300), max_tokens=300)
        waiting = child.submit(range(300, 500), max_tokens=300)
        child.read_until(lambda: len(child.tokens(running)) >= 2)
        assert cancel_and_time(child, waiting) <= DECODE_LIMIT_S
        assert child.started(waiting) == []
        child.wait(running)
        assert len(child.tokens(running)) == 300
        assert child.of(Fault) == []


def test_requests_take_turns_in_a_shared_cache() -> None:
    with Child(tiny_gguf(), context=512, options={"kv_bytes": 1}) as child:
        child.ready()
        numbers = [child.submit(range(100 + n, 300 + n), max_tokens=30) for n in range(6)]
        child.wait(*numbers)
        assert [len(child.tokens(number)) for number in numbers] == [30] * 6
        assert child.of(Fault) == []


@pytest.mark.parametrize("options", [{}, {"kv_bytes": 1}], ids=["own caches", "shared cache"])
def test_every_request_ends_once_under_random_cancels(options: dict[str, int]) -> None:
    draw = random.Random(5)
    with Child(tiny_gguf(), context=1024, options=options) as child:
        child.ready()
        numbers: list[int] = []
        cancelled: set[int] = set()
        for _ in range(40):
            ids = [draw.randrange(100, 4000) for _ in range(draw.randrange(1, 400))]
            numbers.append(child.submit(ids, max_tokens=draw.randrange(1, 40)))
            if draw.random() < 0.4:
                chosen = draw.choice(numbers)
                cancelled.add(chosen)
                child.cancel(chosen)
            if draw.random() < 0.3:
                child.wait(*numbers[:-4])
        child.wait(*numbers)
        assert sorted(frame.id for frame in child.of(Released)) == numbers
        assert child.of(Fault) == []
        for number in numbers:
            ends = [out for out in child.tokens(number) if out.finish is not None]
            assert len(ends) == 1 or number in cancelled
