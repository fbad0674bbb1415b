"""Prompt chunks: long enough to be quick, short enough for running streams."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.backends.mlx.pacing import MAX_CHUNK, MIN_CHUNK, Pace, admit, chunk

LENGTHS = st.lists(st.integers(0, 5000), max_size=8)


def measured(ms_per_token: float, decode_ms: float, stall_target_ms: float = 250) -> Pace:
    pace = Pace(stall_target_ms)
    pace.saw(decode_ms, decoding=True, prompt_tokens=0)
    pace.saw(decode_ms + 1000 * ms_per_token, decoding=True, prompt_tokens=1000)
    return pace


def test_a_chunk_fills_most_of_the_stall_target_beside_a_decode_step() -> None:
    assert measured(ms_per_token=1.0, decode_ms=50).budget(decoding=True) == 112
    assert measured(ms_per_token=1.0, decode_ms=50).budget(decoding=False) == 496


def test_the_first_chunk_is_small_and_none_is_too_big_or_too_small() -> None:
    assert Pace().budget(decoding=True) == MIN_CHUNK
    assert measured(ms_per_token=0.0001, decode_ms=1).budget(decoding=False) == MAX_CHUNK
    assert measured(ms_per_token=500, decode_ms=1).budget(decoding=True) == MIN_CHUNK
    assert measured(ms_per_token=1.0, decode_ms=900).budget(decoding=True) == MIN_CHUNK


def test_chunks_grow_step_by_step_into_what_was_not_measured() -> None:
    pace = Pace()
    pace.saw(1.0, decoding=False, prompt_tokens=1)
    chunks: list[int] = []
    while not chunks or chunks[-1] < MAX_CHUNK:
        chunks.append(pace.budget(decoding=True))
        pace.saw(chunks[-1] * 0.01, decoding=True, prompt_tokens=chunks[-1])
    assert chunks[0] == MIN_CHUNK
    assert all(now <= before * 1.25 + 16 for before, now in pairwise(chunks))
    assert all(now > before for before, now in pairwise(chunks))


def test_the_target_can_be_changed_at_once() -> None:
    pace = measured(ms_per_token=1.0, decode_ms=50)
    pace.stall_target_ms = 1050
    assert pace.budget(decoding=True) == 672


def test_costs_follow_what_was_last_seen() -> None:
    pace = measured(ms_per_token=1.0, decode_ms=50)
    for _ in range(30):
        pace.saw(50 + 1000 * 4.0, decoding=True, prompt_tokens=1000)
    assert abs(pace.cost.ms_per_token - 4.0) < 0.05
    assert pace.predicted_s(100, decoding=True) > pace.predicted_s(100, decoding=False) > 0.39


def test_what_every_chunk_costs_is_told_from_what_its_tokens_cost() -> None:
    pace = Pace()
    for tokens in (64, 128, 96, 200):
        pace.saw(30 + tokens * 0.5, decoding=False, prompt_tokens=tokens)
    assert pace.cost.fixed_ms == pytest.approx(30)
    assert pace.cost.ms_per_token == pytest.approx(0.5)
    assert pace.predicted_s(0, decoding=False) == 0


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.2])
@pytest.mark.parametrize("seed", range(5))
def test_pauses_stay_within_the_target_while_long_prompts_come_in(noise: float, seed: int) -> None:
    """Costs as measured on a small CPU: sixty times dearer at the end of 8,000 tokens."""
    chance, pace = random.Random(seed), Pace(250)
    pauses: list[float] = []
    for _ in range(4):
        done = 0
        while done < 8000:
            tokens = min(pace.budget(decoding=True), 8000 - done)
            cost = 7 + 60 * done / 8000 + tokens * (0.3 + 2.9 * done / 8000)
            pauses.append(cost * chance.lognormvariate(0, noise))
            pace.saw(pauses[-1], decoding=True, prompt_tokens=tokens)
            done += tokens
        for _ in range(9):
            pace.saw(5.0, decoding=True, prompt_tokens=0)
    pauses.sort()
    assert pauses[int(len(pauses) * 0.99)] <= 250
    assert pauses[len(pauses) // 2] >= 250 * 0.4  # and no smaller chunks than that needs


@given(st.lists(st.tuples(st.floats(0, 1e4), st.booleans(), st.integers(0, 5000))), st.booleans())
def test_budgets_stay_in_bounds(steps: list[tuple[float, bool, int]], decoding: bool) -> None:
    pace = Pace()
    for ms, decoded, tokens in steps:
        pace.saw(ms, decoded, tokens)
    assert MIN_CHUNK <= pace.budget(decoding) <= MAX_CHUNK


def test_short_prompts_join_and_one_long_one_may_be_under_way() -> None:
    assert admit([10, 20, 30], [], 512) == [0, 1, 2]
    assert admit([4000, 10, 20], [], 512) == [0, 1, 2]
    assert admit([4000, 3000, 10], [], 512) == [0, 2]
    assert admit([3000, 10], [4000], 512) == [1]
    assert admit([3000], [10, 20], 512) == [0]
    assert admit([100, 100, 100], [], 200) == [0, 1]


@given(LENGTHS, LENGTHS, st.integers(MIN_CHUNK, MAX_CHUNK))
def test_admission_never_starves_and_never_stacks_long_prompts(
    waiting: list[int], running: list[int], budget: int
) -> None:
    chosen = admit(waiting, running, budget)
    assert chosen == sorted(set(chosen))
    if waiting and not running:
        assert chosen[0] == 0
    if chosen:
        lengths = running + [waiting[index] for index in chosen]
        share = budget // len(lengths)
        assert sum(length > share for length in lengths) <= 1


@given(st.integers(0, 64), st.integers(MIN_CHUNK, MAX_CHUNK))
def test_chunks_share_the_budget(running: int, budget: int) -> None:
    size = chunk(running, budget)
    assert size >= 1
    assert size * max(1, running) <= max(budget, running)
