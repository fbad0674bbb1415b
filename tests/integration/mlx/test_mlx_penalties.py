"""Biases and penalties on MLX, by what they do to greedy text."""

import pytest

from opta_lmx.core.types import SamplingParams
from tests.integration.mlx.conftest import Driver, prompt

pytestmark = pytest.mark.engine


def greedy(**penalties: float) -> SamplingParams:
    return SamplingParams(temperature=0.0, **penalties)  # type: ignore[arg-type]


def test_a_high_bias_forces_a_token_and_a_low_one_bans_it(driver: Driver) -> None:
    usual = driver.alone(prompt(10), 6)
    assert driver.alone(prompt(10), 6, logit_bias=((500, 100.0),)) == [500] * 6
    banned = driver.alone(prompt(10), 6, logit_bias=tuple((token, -100.0) for token in usual))
    assert not set(banned) & set(usual)


@pytest.mark.parametrize("bias", [((4096, 1.0),), ((-1, 1.0),), ((5, float("nan")),)])
def test_biases_that_make_no_sense(driver: Driver, bias: tuple[tuple[int, float], ...]) -> None:
    driver.submit(1, prompt(4), 4, logit_bias=bias)
    driver.run()
    assert [fault.code for fault in driver.faults] == ["bad_request"]


@pytest.mark.parametrize("penalty", ["frequency_penalty", "presence_penalty"])
def test_a_loop_is_left(driver: Driver, penalty: str) -> None:
    # Far apart from one another and from all other tokens, but nearer than the penalty.
    forced = ((500, 2000.0), (501, 1900.0), (502, 1800.0), (503, 1700.0))
    assert driver.alone(prompt(10), 4, logit_bias=forced) == [500] * 4
    left = driver.alone(prompt(10), 4, sampling=greedy(**{penalty: 1000.0}), logit_bias=forced)
    assert left == [500, 501, 502, 503]


def test_the_prompt_does_not_count_but_for_repetition(driver: Driver) -> None:
    first = driver.alone(prompt(10), 1)
    ids = (*prompt(10), *first, *first)
    usual = driver.alone(ids, 1)
    again = (*usual, *ids[1:])
    best = driver.alone(again, 1)
    for penalties in ({"frequency_penalty": 2.0}, {"presence_penalty": 2.0}):
        assert driver.alone(again, 1, sampling=greedy(**penalties)) == best
    repeated = (*best, *again)
    now = driver.alone(repeated, 1)
    if now[0] in repeated:
        assert driver.alone(repeated, 1, sampling=greedy(repetition_penalty=50.0)) != now


def test_repetition_avoids_the_prompts_tokens(driver: Driver) -> None:
    forced = ((500, 2000.0), (501, 1900.0))
    ids = (500, *prompt(10))
    assert driver.alone(ids, 2, logit_bias=forced) == [500, 500]
    left = driver.alone(ids, 2, sampling=greedy(repetition_penalty=2.0), logit_bias=forced)
    assert left == [501, 500]


def test_rows_keep_their_own_counts(driver: Driver) -> None:
    penalized = greedy(frequency_penalty=2.0, presence_penalty=1.0)
    alone = [driver.alone(prompt(12, seed), 30, sampling=penalized) for seed in range(3)]
    for seed in range(3):
        driver.submit(seed, prompt(12, seed), 30, penalized)
    driver.submit(9, prompt(5), 30)
    driver.run()
    assert [driver.ids(seed) for seed in range(3)] == alone
