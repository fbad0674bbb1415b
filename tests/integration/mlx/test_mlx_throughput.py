"""Batching pays: with OpenBLAS loaded, eight rows give at least twice the tokens of one."""

import pytest

from opta_lmx.backends.mlx.environment import find_openblas
from tests.integration.mlx.conftest import Driver, prompt

TOKENS = 24
ROUNDS = 5


def rate(driver: Driver, rows: int) -> float:
    """Tokens per second of steps in which every row decodes."""
    driver.forget()
    for request in range(rows):
        driver.submit(request, prompt(8, request), TOKENS)
    driver.run()
    full = [step for step in driver.steps if step.rows == rows]
    assert len(full) > TOKENS // 2  # a busy machine may take the prompts in turn
    return rows * len(full) / (sum(step.ms for step in full) / 1000)


@pytest.mark.skipif(isinstance(find_openblas(), str), reason="OpenBLAS is for the Linux CPU build")
def test_eight_rows_give_twice_the_tokens_of_one(driver: Driver) -> None:
    one = eight = 0.0
    for _ in range(ROUNDS):  # interleaved, and the best of each: other load comes and goes
        one = max(one, rate(driver, 1))
        eight = max(eight, rate(driver, 8))
    print(f"1 row {one:.0f} tok/s, 8 rows {eight:.0f} tok/s, ratio {eight / one:.2f}")
    assert eight >= 2 * one
