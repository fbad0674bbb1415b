"""Batching pays: with OpenBLAS loaded, eight rows give at least twice the tokens of one."""

import pytest

from opta_lmx.backends.mlx.environment import find_openblas
from tests.integration.mlx.conftest import Driver, prompt

TOKENS = 32
ROUNDS = 5


def rates(driver: Driver, rows: int) -> tuple[float, float]:
    """Tokens per second of wall time, and of the engine's own processor time."""
    driver.forget()
    for request in range(rows):
        driver.submit(request, prompt(2, request), TOKENS)
    tokens, wall, processor = driver.timed()
    assert tokens == rows * TOKENS
    return tokens / wall, tokens / processor


@pytest.mark.skipif(isinstance(find_openblas(), str), reason="OpenBLAS is for the Linux CPU build")
def test_eight_rows_give_twice_the_tokens_of_one(driver: Driver) -> None:
    """Judged by processor time, which other processes on the machine cannot stretch."""
    driver.tune(60_000)
    one, eight = (0.0, 0.0), (0.0, 0.0)
    for _ in range(ROUNDS):  # interleaved, and the best of each
        one = max(one, rates(driver, 1), key=lambda rate: rate[1])
        eight = max(eight, rates(driver, 8), key=lambda rate: rate[1])
    print(f"wall: {one[0]:.0f} and {eight[0]:.0f} tok/s; processor: {one[1]:.0f}, {eight[1]:.0f}")
    assert eight[1] >= 2 * one[1]
