"""Requests that come together and share a long beginning: it is processed once."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from opta_lmx.backends.frames import Announce, Cancel, Fault, Submit
from opta_lmx.core.types import SamplingParams
from tests.support.constrained import json_grammar
from tests.support.gguf_adapters import tiny_adapter
from tests.support.gguf_child import Child, assert_the_models_own
from tests.support.tiny import tiny_gguf
from tests.unit.codec.constraints.schemas import SCHEMAS

pytestmark = pytest.mark.engine
WIDTH = 8


def words(seed: int, count: int) -> tuple[int, ...]:
    """So many token ids that are found nowhere else."""
    return tuple(100 + (seed * 7919 + place * 104_729) % 3900 for place in range(count))


SHARED = words(1, 1500)
SHORTER = words(2, 600)


def serving(**load: object) -> Child:
    child = Child(tiny_gguf(), **{"context": 2048, "slots": WIDTH, **load})
    child.ready()
    return child


@pytest.fixture(scope="module")
def alone() -> Iterator[Child]:
    with serving(slots=1) as child:
        yield child


def prompts(seed: int, shared: tuple[int, ...] = SHARED) -> list[tuple[int, ...]]:
    return [(*shared, *words(seed + number, 32)) for number in range(WIDTH)]


def together(child: Child, asked: list[tuple[int, ...]], salt: str = "") -> list[int]:
    return burst(child, *(child.request(ids, 12, salt=salt) for ids in asked))


def burst(child: Child, *frames: Submit | Cancel) -> list[int]:
    """Send all in one piece, so that they come together; wait for all the requests."""
    child.send(*frames)
    numbers = [frame.id for frame in frames if isinstance(frame, Submit)]
    child.wait(*numbers)
    return numbers


def cached(child: Child, numbers: list[int]) -> list[int]:
    return sorted(count for number in numbers for count in child.started(number))


def answer(child: Child, number: int) -> list[int]:
    return [out.id for out in child.tokens(number)]


def test_eight_at_once_after_one(alone: Child) -> None:
    with serving() as child:
        child.generate((*SHARED, *words(50, 32)), max_tokens=4)
        for seed in (100, 200):
            asked = prompts(seed)
            numbers = together(child, asked)
            assert len(cached(child, numbers)) == WIDTH
            assert cached(child, numbers)[1] >= len(SHARED)
            assert {len(answer(child, number)) for number in numbers} == {12}
            for number, ids in zip(numbers[:3], asked, strict=False):
                assert_the_models_own(alone, ids, answer(child, number)[:3])
        assert child.of(Fault) == []


def test_eight_at_once_where_nothing_is_cached(alone: Child) -> None:
    with serving() as child:
        asked = prompts(100)
        numbers = together(child, asked)
        assert cached(child, numbers)[0] == 0, "what one processed itself was not cached"
        assert cached(child, numbers)[1] >= len(SHARED)
        for number, ids in zip(numbers[:3], asked, strict=False):
            assert_the_models_own(alone, ids, answer(child, number)[:3])
        assert "state" in {each.op for each in child.of(Announce)}, "it is silent meanwhile"
        done = [child.prefill(number) for number in numbers]
        assert all(each[-1][0] == each[-1][1] == 1532 for each in done)


def test_in_caches_that_are_shared() -> None:
    with serving(slots=4, options={"kv_bytes": 1}, context=8192) as child:
        numbers = together(child, prompts(100, SHORTER)[:4])
        assert cached(child, numbers)[1] >= len(SHORTER)
        # One that is far beyond what it shares, and fills most of the cells.
        long = child.submit((*SHORTER[::-1], *words(3, 6400)), 12)
        child.read_until(lambda: any(done >= 1400 for done, _ in child.prefill(long)))
        short = child.submit((*SHORTER[::-1], *words(4, 40)), 12)
        child.wait(long, short)
        assert [len(answer(child, number)) for number in (long, short)] == [12, 12]
        assert child.of(Fault) == []


def test_where_nothing_can_be_put_aside_it_is_tried_again() -> None:
    with serving(slots=2) as child:
        (folder,) = (Path(child.runtime_dir) / "llama").glob("*.slots")
        away = folder.rename(folder.with_name("away"))
        assert cached(child, together(child, prompts(100, SHORTER)[:2])) == [0, 0]
        away.rename(folder)
        for seed in (10, 20):
            child.generate(words(seed, 1900), max_tokens=2)
        numbers = together(child, prompts(200, SHORTER)[:2])
        assert cached(child, numbers)[1] >= len(SHORTER)
        assert child.of(Fault) == []


def test_who_is_gone_before_it_began_leaves_no_cache_of_others_behind() -> None:
    with serving(slots=1) as child:
        for place in range(8):
            child.generate(SHORTER, max_tokens=2, salt=f"a{place}")
            gone = child.request(SHORTER, 4, salt=f"b{place}")
            burst(child, gone, Cancel(gone.id))
            again = burst(child, child.request(SHORTER, 2, salt=f"b{place}"))
            assert cached(child, again)[0] <= len(SHORTER) // 2, "it processed a little at most"


def test_the_very_same_prompt(alone: Child) -> None:
    with serving(slots=4) as child:
        numbers = together(child, [SHORTER] * 4)
        assert cached(child, numbers)[1] >= len(SHORTER) - 1
        for number in numbers:
            assert_the_models_own(alone, SHORTER, answer(child, number)[:3])


def test_tenants_do_not_wait_for_each_other() -> None:
    with serving(slots=4) as child:
        asked = prompts(100, SHORTER)[:2]
        numbers = burst(
            child, *(child.request(ids, 4, salt=salt) for salt in "ab" for ids in asked)
        )
        assert cached(child, numbers[:2])[0] == cached(child, numbers[2:])[0] == 0
        assert cached(child, numbers[:2])[1] >= len(SHORTER) <= cached(child, numbers[2:])[1]


def test_whom_others_wait_for_may_go(alone: Child) -> None:
    asked = prompts(100, SHORTER)[:3]
    for hold in (False, True):
        with serving(slots=4) as child:
            requests = [child.request(ids, 12) for ids in asked]
            numbers = burst(child, *requests, Cancel(requests[0].id, hold=hold))
            for number, ids in zip(numbers[1:], asked[1:], strict=True):
                assert_the_models_own(alone, ids, answer(child, number)[:3])
            again = child.submit(asked[0], 12, generated=tuple(answer(child, numbers[0])))
            child.wait(again)
            assert len(answer(child, numbers[0])) + len(answer(child, again)) == 12
            assert child.of(Fault) == []


def test_who_waits_may_go() -> None:
    with serving(slots=4) as child:
        requests = [child.request(ids, 12) for ids in prompts(100, SHORTER)[:3]]
        numbers = burst(child, *requests, *(Cancel(each.id) for each in requests[1:]))
        assert len(answer(child, numbers[0])) == 12
        assert child.started(numbers[0]) == [0]


def test_a_seed_begins_anew(alone: Child) -> None:
    seeded = SamplingParams(temperature=1.0, top_p=0.95, top_k=40, min_p=0.0, seed=11)
    ids = (*SHORTER, *words(300, 40))
    with serving(slots=4) as child:
        others = [child.request(each, 4) for each in prompts(100, SHORTER)[:2]]
        leader, *rest = burst(child, child.request(ids, 40, sampling=seeded), *others)
        lone = [out.id for out in alone.generate(ids, max_tokens=3, sampling=seeded)]
        assert answer(child, leader)[:3] == lone
        assert cached(child, rest)[0] >= len(SHORTER)


def test_a_grammar_begins_anew() -> None:
    grammar = json_grammar(SCHEMAS["nested"])
    with serving(slots=4) as child:
        asked = [child.request(ids, 40, grammar=grammar) for ids in prompts(100)[:3]]
        numbers = burst(child, *asked)
        assert cached(child, numbers)[1] >= len(SHARED)
        for number in numbers:
            assert child.tokens(number)[-1].finish == "length" or json.loads(child.text(number))
        assert child.of(Fault) == []


def test_of_one_adapter_each() -> None:
    adapters = {"one": str(tiny_adapter(1))}
    with serving(slots=4, adapters=adapters) as child:
        for name in ("", "one", "", "one"):
            child.submit(words(7, 40), 2, adapter=name)
        asked = prompts(100, SHORTER)[:3]
        for name in ("one", ""):
            each = (child.request(ids, 6, adapter=name, salt=name) for ids in asked)
            numbers = burst(child, *each)
            assert cached(child, numbers)[0] == 0
            assert cached(child, numbers)[1] >= len(SHORTER)
        assert child.of(Fault) == []
