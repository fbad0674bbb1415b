"""A row is taken out at any stage and goes on later, and nobody beside it notices."""

from collections.abc import Callable

import pytest

from opta_lmx.backends.frames import Reuse
from opta_lmx.core.types import SamplingParams
from tests.integration.mlx.conftest import GREEDY, Driver, prompt

pytestmark = pytest.mark.engine

MODELS = ["llama", "sliding", "hybrid"]
SEEDED = SamplingParams(temperature=0.9, seed=3)
UNDISTURBED: dict[str, tuple[list[int], list[int]]] = {}
"""By model, what the two requests that are held, and beside that, get alone."""


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("delivered", [0, 1, 12, 90])
def test_a_row_that_decodes_is_held_and_goes_on(
    drivers: Callable[[str], Driver], model: str, delivered: int
) -> None:
    driver = drivers(model)
    driver.tune(60_000)
    ids, other = prompt(40, 1), prompt(75, 2)
    if model not in UNDISTURBED:
        UNDISTURBED[model] = (driver.alone(ids, 100, sampling=SEEDED), driver.alone(other, 120))
    whole, beside = UNDISTURBED[model]
    driver.submit(1, ids, 100, SEEDED, keep_end=7)
    driver.submit(2, other, 120)
    if delivered:
        driver.run(until=lambda: len(driver.ids(1)) == delivered)
    else:  # its prompt is done, its first token drawn and not delivered
        driver.run(until=lambda: any(row[1] == row[2] for s in driver.steps for row in s.prefill))
        assert not driver.ids(1)
    driver.cancel(1, hold=True)
    driver.run(until=lambda: 1 in driver.released)
    first = driver.ids(1)
    # All but the last token are held, so that there is one to go on with.
    kept = driver.kept[7]
    assert kept.tokens == len(ids) + len(first) - 1
    assert 0 <= len(first) - delivered <= (model != "llama")
    assert kept.bytes > 0
    driver.submit(3, ids, 100, SEEDED, generated=tuple(first), reuse=Reuse(7, kept.tokens))
    driver.run()
    assert driver.cached[3] == kept.tokens
    assert first + driver.ids(3) == whole
    assert driver.ids(2) == beside
    assert driver.lost == []
    driver.cache(drop=(7,))


@pytest.mark.parametrize("model", MODELS)
def test_a_row_in_its_prompt_is_held(drivers: Callable[[str], Driver], model: str) -> None:
    driver = drivers(model)
    ids = prompt(700, 1)
    whole = driver.alone(ids, 6)
    beside = driver.alone(prompt(9), 40)
    driver.tune(1)  # chunks of 16
    driver.submit(2, prompt(9), 40)
    driver.run(until=lambda: bool(driver.ids(2)))
    driver.submit(1, ids, 6, keep_end=8)
    driver.run(until=lambda: any(row[0] == 1 for s in driver.steps[-3:] for row in s.prefill))
    driver.step()
    driver.cancel(1, hold=True)
    assert driver.released == [1]
    kept = driver.kept[8]
    assert 0 < kept.tokens == driver.steps[-1].prefill[-1][1] < 700
    driver.run()
    driver.submit(3, ids, 6, reuse=Reuse(8, kept.tokens))
    driver.run()
    assert driver.cached[3] == kept.tokens
    assert driver.ids(3) == whole
    assert driver.ids(2) == beside
    driver.cache(drop=(8,))


def test_a_row_that_waits_has_nothing_to_hold(driver: Driver) -> None:
    driver.submit(1, prompt(20), 6, keep_end=4)
    driver.cancel(1, hold=True)
    assert (driver.released, driver.lost) == ([1], [4])
    assert not driver.busy


def test_held_again_and_again_one_token_at_a_time(driver: Driver) -> None:
    ids = prompt(30, 6)
    whole = driver.alone(ids, 12)
    got: list[int] = []
    for turn in range(12):
        before = Reuse(100 + turn, len(ids) + len(got) - 1) if turn else None
        driver.submit(turn, ids, 12, generated=tuple(got), reuse=before, keep_end=101 + turn)
        driver.run(until=lambda turn=turn: bool(driver.ids(turn)))
        driver.cancel(turn, hold=True)
        got += driver.ids(turn)
        assert driver.cached[turn] == (0 if before is None else before.tokens)
        driver.run()
    assert got == whole
    driver.cache(drop=tuple(range(101, 113)))


@pytest.mark.parametrize("model", ["sliding", "hybrid"])
def test_a_row_that_ends_while_it_is_to_be_held(
    drivers: Callable[[str], Driver], model: str
) -> None:
    """Its last token cannot be taken off, so that it makes one more: its last one."""
    driver = drivers(model)
    ids = prompt(100, 2)
    driver.submit(1, ids, 5, keep_end=9)
    driver.run(until=lambda: len(driver.ids(1)) == 4)
    driver.cancel(1, hold=True)
    driver.run()
    assert driver.tokens[1][-1].finish == "length"
    assert driver.released == [1]
    assert driver.kept[9].tokens == 104
    driver.cache(drop=(9,))
    driver.submit(2, ids, 5, keep_end=10)
    driver.run(until=lambda: len(driver.ids(2)) == 2)
    driver.cancel(2, hold=True)
    driver.cancel(2)  # given up before it was held
    assert driver.released == [1, 2]
    assert 10 in driver.kept or 10 in driver.lost
    driver.cache(drop=(10,))


def test_greedy_neighbours_of_many_pauses(driver: Driver) -> None:
    texts = {request: driver.alone(prompt(12, request), 30) for request in range(3)}
    for request in range(3):
        driver.submit(request, prompt(12, request), 30, GREEDY)
    for turn in range(6):
        driver.submit(10 + turn, prompt(60 + turn, turn), 30, keep_end=20 + turn)
        driver.run(until=lambda turn=turn: bool(driver.ids(10 + turn)))
        driver.cancel(10 + turn, hold=True)
    driver.run()
    assert {request: driver.ids(request) for request in range(3)} == texts
    driver.cache(drop=tuple(range(20, 26)))
