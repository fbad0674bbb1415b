"""What llama.cpp's slots remember between requests, and whose it is."""

from collections.abc import Iterator

import pytest

from opta_lmx.backends.frames import CacheChanged, Fault, Keep, Ready, Released
from tests.support.gguf_child import Child
from tests.support.starters import starter_path
from tests.support.tiny import tiny_gguf

pytestmark = pytest.mark.engine
TOOLS = tuple(100 + place * 37 % 3900 for place in range(600))
TURNS = 10


def words(seed: int, count: int) -> tuple[int, ...]:
    """So many token ids that are found nowhere else."""
    return tuple(100 + (seed * 7919 + place * 104_729) % 3900 for place in range(count))


@pytest.fixture
def child() -> Iterator[Child]:
    with Child(tiny_gguf(), context=4096, slots=3) as made:
        made.ready()
        yield made


def ask(child: Child, ids: tuple[int, ...], salt: str = "", answer: int = 12) -> tuple[int, list]:
    """Run one request alone; return how many of its tokens were cached, and the answer's ids."""
    number = child.submit(ids, max_tokens=answer, salt=salt)
    child.wait(number)
    (cached,) = child.started(number)
    return cached, [out.id for out in child.tokens(number)]


def session(child: Child, tools: tuple[int, ...], seed: int, volatile: int) -> tuple[int, int]:
    """Ten turns, each ending in a message not kept; return (reusable, cached) from turn 2 on."""
    history, previous = tools, ()
    reusable = reused = 0
    for turn in range(TURNS):
        asked = words(seed + turn * 10, 40)
        ids = (*history, *asked, *words(seed + turn * 10 + 1, volatile))
        cached, answer = ask(child, ids, answer=20)
        if turn:
            pairs = zip(ids, previous, strict=False)
            reusable += next((n for n, (a, b) in enumerate(pairs) if a != b), len(previous))
            reused += cached
        previous = ids
        history = (*history, *asked, *answer)
    return reusable, reused


@pytest.mark.parametrize("volatile", [30, 700])
def test_a_conversation_with_a_changing_tail(child: Child, volatile: int) -> None:
    reusable, reused = session(child, TOOLS, 1, volatile)
    assert reused >= 0.98 * reusable > 5000


def test_a_long_tail_on_a_model_with_sliding_windows() -> None:
    """Its windows are 512 tokens: what is before a longer tail is gone from them."""
    with Child(starter_path("starter-long"), context=2048, slots=1) as child:
        child.ready()
        kept = (*TOOLS[:200], *words(1, 40))
        ask(child, (*kept, *words(2, 570)), answer=2)
        assert ask(child, (*kept, *words(3, 40)), answer=2)[0] == len(kept)


def test_two_conversations_of_one_beginning_keep_theirs(child: Child) -> None:
    for seed in (1, 2):
        cached, _ = ask(child, (*TOOLS, *words(seed, 500)))
        assert (cached == 0) if seed == 1 else (cached >= 0.98 * len(TOOLS))
    for turn in range(3):
        for seed in (1, 2):
            ids = (*TOOLS, *words(seed, 500), *words(50 + 2 * turn + seed, 30))
            cached, _ = ask(child, ids)
            assert cached >= len(TOOLS) + 500


def test_a_copied_state_answers_as_a_processed_one(child: Child) -> None:
    ids = (*TOOLS, *words(2, 300))
    with Child(tiny_gguf(), context=4096, slots=1) as other:
        other.ready()
        _, alone = ask(other, ids, answer=16)
    ask(child, (*TOOLS, *words(1, 500)))
    cached, copied = ask(child, ids, answer=16)
    assert cached >= len(TOOLS)
    assert copied == alone


def test_tenants_never_share_a_cache(child: Child) -> None:
    ids = (*TOOLS, *words(1, 100))
    _, alone = ask(child, ids, salt="a")
    for salt in ("b", "c", "d", "e", ""):
        cached, answer = ask(child, ids, salt=salt)
        assert cached == 0
        assert answer == alone
    assert ask(child, ids, salt="")[0] == len(ids) - 1


def test_tenants_in_turn_on_the_only_slot() -> None:
    with Child(tiny_gguf(), context=1024, slots=1) as child:
        child.ready()
        ids = words(3, 300)
        assert [ask(child, ids, salt=salt)[0] for salt in "abaab"] == [0, 0, 0, 299, 0]


def test_cached_is_what_the_engine_says_even_when_the_slot_was_cleared() -> None:
    """A shared cache: others' prompts push a slot out, least valuable first."""
    with Child(tiny_gguf(), context=1024, slots=4, options={"kv_bytes": 1}) as child:
        child.ready()
        old, new = words(1, 300), words(2, 400)
        assert ask(child, old)[0] == 0
        assert ask(child, new)[0] == 0
        assert ask(child, words(3, 400))[0] == 0
        assert ask(child, new)[0] == 399
        assert ask(child, old)[0] == 0, "it made room"
        assert child.of(Fault) == []


def test_a_cancelled_prompt_leaves_what_was_processed() -> None:
    with Child(starter_path("starter"), context=4096, slots=2) as child:
        child.ready()
        ids = words(1, 400)
        number = child.submit(ids, max_tokens=4)
        child.read_until(lambda: len(child.prefill(number)) >= 3)
        child.cancel(number)
        child.wait(number)
        done = child.prefill(number)[-1][0]
        cached, _ = ask(child, ids, answer=2)
        assert done <= cached < len(ids)
        assert child.of(Ready)[0].caches == "none"


def test_handles_of_the_front_are_told_to_hold_nothing(child: Child) -> None:
    keeps = (Keep(3, 5), Keep(4, 9))
    number = child.submit(words(1, 20), max_tokens=2, keep=keeps, keep_end=7)
    refused = child.submit((), max_tokens=2, keep_end=8)
    child.wait(number, refused)
    told = [frame for frame in child.frames if isinstance(frame, CacheChanged | Released)]
    assert CacheChanged(lost=(3, 4, 7)) in told
    assert told.index(CacheChanged(lost=(3, 4, 7))) < told.index(Released(number))
    assert told.index(CacheChanged(lost=(8,))) < told.index(Released(refused))
