"""Requests that run together give the text they give alone, and share every step."""

from collections.abc import Callable
from itertools import pairwise

import pytest

from opta_lmx.core.types import SamplingParams
from tests.integration.mlx.conftest import GREEDY, Driver, prompt

pytestmark = pytest.mark.alone

TOKENS = 24
WHOLE_PROMPTS = 60_000
"""A stall target, in ms, that takes every prompt here in one chunk, however slow the machine."""


@pytest.mark.parametrize("model", ["llama", "sliding", "qwen2"])
def test_staggered_streams_run_as_one_batch_with_the_same_text(
    drivers: Callable[[str], Driver], model: str
) -> None:
    driver = drivers(model)
    driver.tune(WHOLE_PROMPTS)
    # Lengths beyond the sliding window of 64, of one token, and of many chunks' difference.
    prompts = [prompt(length, i) for i, length in enumerate((150, 12, 1, 40, 90, 7, 65, 2))]
    alone = [driver.alone(ids, TOKENS) for ids in prompts]
    for request, ids in enumerate(prompts):
        driver.submit(request, ids, TOKENS)
        driver.step()
        driver.step()
    driver.run()

    assert [driver.ids(i) for i in range(8)] == alone
    decode_steps = [step for step in driver.steps if step.tokens]
    assert max(step.rows for step in decode_steps) == 8
    # The last arrives after 14 steps and needs 2 before its first token.
    assert len(decode_steps) <= TOKENS + 14 + 4
    assert sum(step.rows for step in decode_steps) == 8 * TOKENS
    assert sorted(driver.released) == list(range(8))


def test_every_request_is_released_once_and_after_its_last_token(driver: Driver) -> None:
    for request in range(8):
        driver.submit(request, prompt(5, request), max_tokens=3 + request)
    driver.run()
    assert sorted(driver.released) == list(range(8))
    for request in range(8):
        last_step = max(
            number
            for number, step in enumerate(driver.steps, start=1)
            if any(token.request == request for token in step.tokens)
        )
        assert driver.released_at[request] == last_step
        tokens = driver.tokens[request]
        assert [token.finish for token in tokens] == [None] * (2 + request) + ["length"]
    assert driver.steps[-1].kv_bytes == 0
    assert {(s.request, s.cached) for s in driver.started} == {(i, 0) for i in range(8)}


def test_a_seed_gives_the_same_text_alone_and_in_a_mixed_batch(driver: Driver) -> None:
    seeded = SamplingParams(temperature=0.9, top_k=200, top_p=0.97, min_p=0.001, seed=42)
    alone = driver.alone(prompt(20), sampling=seeded)
    assert driver.alone(prompt(20), sampling=seeded) == alone
    driver.submit(1, prompt(33, 1), 30)
    driver.submit(2, prompt(9, 2), 30, SamplingParams(temperature=1.0))
    driver.step()
    driver.submit(3, prompt(20), sampling=seeded)
    driver.step()
    driver.submit(4, prompt(20), 10, SamplingParams(temperature=0.9, seed=7))
    driver.run()
    assert driver.ids(3) == alone
    other = SamplingParams(temperature=0.9, top_k=200, top_p=0.97, min_p=0.001, seed=43)
    assert driver.alone(prompt(20), sampling=other) != alone


def test_unseeded_draws_differ_from_run_to_run(driver: Driver) -> None:
    hot = SamplingParams(temperature=1.5)
    texts = {tuple(driver.alone(prompt(10), sampling=hot)) for _ in range(3)}
    assert len(texts) == 3


@pytest.mark.parametrize(
    "narrow",
    [
        SamplingParams(temperature=1.5, top_k=1),
        SamplingParams(temperature=1.5, top_p=1e-9),
        SamplingParams(temperature=1.5, top_p=0.0),
        SamplingParams(temperature=1.5, min_p=1.0),
        SamplingParams(temperature=1e-9),
    ],
)
def test_filters_that_leave_one_token_are_greedy(driver: Driver, narrow: SamplingParams) -> None:
    assert driver.alone(prompt(10), 12, sampling=narrow) == driver.alone(prompt(10), 12)


def test_a_long_prompt_does_not_silence_a_running_stream(driver: Driver) -> None:
    alone = driver.alone(prompt(1500, 3), 4)
    driver.tune(1)  # the smallest chunks, on any machine
    driver.submit(1, prompt(8), 200)
    driver.run(until=lambda: 1 in driver.tokens)
    driver.submit(2, prompt(1500, 3), 4)
    driver.run(until=lambda: 2 in driver.tokens)
    during = [step for step in driver.steps if any(row[0] == 2 for row in step.prefill)]
    assert len(during) > 20
    assert all(any(token.request == 1 for token in step.tokens) for step in during)
    done = [row[1] for step in during for row in step.prefill if row[0] == 2]
    assert done == sorted(done)
    assert done[-1] == 1500
    driver.cancel(1)
    driver.run()
    assert driver.ids(2) == alone


def test_no_chunk_beside_a_stream_is_longer_than_its_pace_allows(driver: Driver) -> None:
    """Counted, not timed: each chunk costs what the steps before it say, within the target."""
    driver.submit(1, prompt(8), 900)
    driver.run(until=lambda: len(driver.ids(1)) > 5)
    driver.tune(100)
    driver.submit(2, prompt(3000, 3), 1)
    driver.run(until=lambda: 2 in driver.tokens)
    during = [step for step in driver.steps if any(row[0] == 2 for row in step.prefill)]
    done = [0] + [row[1] for step in during for row in step.prefill if row[0] == 2]
    chunks = [after - before for before, after in pairwise(done)]
    assert done[-1] == 3000
    longest = 64.0  # more than the warm-up measured
    for size in chunks:
        assert size <= max(longest * 1.25 + 16, 16)
        longest = max(size, longest * 0.9)
    assert all(any(token.request == 1 for token in step.tokens) for step in during)
    driver.cancel(1)
    driver.run()


def test_a_short_prompt_passes_a_long_one(driver: Driver) -> None:
    driver.tune(1)
    driver.submit(1, prompt(8), 300)
    driver.run(until=lambda: 1 in driver.tokens)
    driver.submit(2, prompt(1200, 3), 1)
    driver.step()
    driver.submit(3, prompt(6, 4), 1)
    driver.run(until=lambda: 2 in driver.tokens and 3 in driver.tokens)
    finished = [token.request for step in driver.steps for token in step.tokens if token.finish]
    assert finished == [3, 2]
    driver.cancel(1)
    driver.run()


def test_prompts_that_fit_start_together(driver: Driver) -> None:
    driver.tune(WHOLE_PROMPTS)
    for request in range(8):
        driver.submit(request, prompt(6, request), 2)
    driver.step()
    assert [s.request for s in driver.started] == list(range(8))
    driver.run()
    assert driver.steps[-1].rows == 8


def test_greedy_stays_greedy_beside_sampled_rows(driver: Driver) -> None:
    alone = driver.alone(prompt(15))
    driver.submit(1, prompt(15), sampling=GREEDY)
    driver.submit(2, prompt(15), sampling=SamplingParams(temperature=2.0, top_p=0.5))
    driver.run()
    assert driver.ids(1) == alone
