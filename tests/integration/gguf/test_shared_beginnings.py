"""Requests that come together and share a long beginning: it is processed once."""

import json
from collections.abc import Iterator

import pytest

from opta_lmx.backends.frames import Cancel, Fault
from opta_lmx.core.types import SamplingParams
from tests.support.constrained import json_grammar
from tests.support.gguf_adapters import tiny_adapter
from tests.support.gguf_child import Child
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
    numbers = [child.submit(ids, max_tokens=12, salt=salt) for ids in asked]
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
                # Beside other rows a choice between close tokens may fall otherwise, later on.
                lone = [out.id for out in alone.generate(ids, max_tokens=3)]
                assert answer(child, number)[:3] == lone
        assert child.of(Fault) == []


def test_eight_at_once_where_nothing_is_cached(alone: Child) -> None:
    with serving() as child:
        asked = prompts(100)
        numbers = together(child, asked)
        assert cached(child, numbers)[0] == 0, "what one processed itself was not cached"
        assert cached(child, numbers)[1] >= len(SHARED)
        for number, ids in zip(numbers[:3], asked, strict=False):
            lone = [out.id for out in alone.generate(ids, max_tokens=3)]
            assert answer(child, number)[:3] == lone
        done = [child.prefill(number) for number in numbers]
        assert all(each[-1][0] == each[-1][1] == 1532 for each in done)


def test_in_caches_that_are_shared() -> None:
    with serving(slots=4, options={"kv_bytes": 1}, context=8192) as child:
        numbers = together(child, prompts(100, SHORTER)[:4])
        assert cached(child, numbers)[1] >= len(SHORTER)


def test_the_very_same_prompt(alone: Child) -> None:
    with serving(slots=4) as child:
        numbers = together(child, [SHORTER] * 4)
        assert cached(child, numbers)[1] >= len(SHORTER) - 1
        lone = [out.id for out in alone.generate(SHORTER, max_tokens=3)]
        assert [answer(child, number)[:3] for number in numbers] == [lone] * 4


def test_tenants_do_not_wait_for_each_other() -> None:
    with serving(slots=4) as child:
        asked = prompts(100, SHORTER)[:2]
        numbers = [child.submit(ids, 4, salt=salt) for salt in "ab" for ids in asked]
        child.wait(*numbers)
        assert cached(child, numbers[:2])[0] == cached(child, numbers[2:])[0] == 0
        assert cached(child, numbers[:2])[1] >= len(SHORTER) <= cached(child, numbers[2:])[1]


def test_whom_others_wait_for_may_go(alone: Child) -> None:
    asked = prompts(100, SHORTER)[:3]
    for hold in (False, True):
        with serving(slots=4) as child:
            numbers = [child.submit(ids, 12) for ids in asked]
            child.send(Cancel(numbers[0], hold=hold))
            child.wait(*numbers)
            for number, ids in zip(numbers[1:], asked[1:], strict=True):
                lone = [out.id for out in alone.generate(ids, max_tokens=3)]
                assert answer(child, number)[:3] == lone
            again = child.submit(asked[0], 12, generated=tuple(answer(child, numbers[0])))
            child.wait(again)
            assert len(answer(child, numbers[0])) + len(answer(child, again)) == 12
            assert child.of(Fault) == []


def test_who_waits_may_go() -> None:
    with serving(slots=4) as child:
        numbers = [child.submit(ids, 12) for ids in prompts(100, SHORTER)[:3]]
        for number in numbers[1:]:
            child.cancel(number)
        child.wait(*numbers)
        assert len(answer(child, numbers[0])) == 12
        assert child.started(numbers[0]) == [0]


def test_a_seed_and_a_grammar_begin_anew(alone: Child) -> None:
    seeded = SamplingParams(temperature=1.0, top_p=0.95, top_k=40, min_p=0.0, seed=11)
    grammar = json_grammar(SCHEMAS["nested"])
    ids = (*SHORTER, *words(300, 40))
    for more in ({"sampling": seeded}, {"grammar": grammar}):
        with serving(slots=4) as child:
            leader = child.submit(ids, 40, **more)
            if "grammar" in more:
                child.read_until(lambda n=leader: bool(child.prefill(n)))
            others = [child.submit(each, 4) for each in prompts(100, SHORTER)[:2]]
            child.wait(leader, *others)
            made = child.tokens(leader)
            assert made
            if "grammar" in more:
                text = child.text(leader)
                assert made[-1].finish == "length" or json.loads(text)
            else:
                lone = [out.id for out in alone.generate(ids, max_tokens=3, **more)]
                assert answer(child, leader)[:3] == lone
            assert cached(child, others)[0] >= len(SHORTER)


def test_of_one_adapter_each() -> None:
    adapters = {"one": str(tiny_adapter(1))}
    with serving(slots=4, adapters=adapters) as child:
        for name in ("", "one", "", "one"):
            child.submit(words(7, 40), 2, adapter=name)
        asked = prompts(100, SHORTER)[:3]
        for name in ("one", ""):
            numbers = [child.submit(ids, 6, adapter=name, salt=name) for ids in asked]
            child.wait(*numbers)
            assert cached(child, numbers)[0] == 0
            assert cached(child, numbers)[1] >= len(SHORTER)
        assert child.of(Fault) == []
