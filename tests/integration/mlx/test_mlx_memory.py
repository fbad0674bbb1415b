"""What caches really take is never more than what is reserved for them."""

from collections.abc import Callable

import pytest

from opta_lmx.scheduling.kv import KvDemand, Reservations
from tests.integration.mlx.conftest import MODELS, Driver, prompt

pytestmark = pytest.mark.engine

LENGTHS = (20, 330, 24, 900, 16, 500)
ANSWER = 20


@pytest.mark.parametrize("model", MODELS)
def test_rows_never_take_more_than_is_reserved(
    drivers: Callable[[str], Driver], model: str
) -> None:
    driver = drivers(model)
    driver.tune(60_000)
    cost = driver.ready.kv
    assert cost is not None
    room = Reservations(cost, driver.ready.kv_bytes)
    assert room.longest() >= driver.ready.context
    for request, length in enumerate(LENGTHS):
        driver.submit(request, prompt(length, request), ANSWER)
        room.add(request, KvDemand(length, ANSWER, ANSWER))
        driver.step()
        assert driver.steps[-1].kv_bytes <= room.reserved + cost.peak
    while driver.busy and (step := driver.step()):
        for request in driver.released:
            room.release(request)
        assert step.kv_bytes <= room.reserved + cost.peak
    assert sorted(driver.released) == list(range(len(LENGTHS)))


@pytest.mark.parametrize("model", MODELS)
def test_what_is_reserved_for_one_row_is_not_far_from_what_it_takes(
    drivers: Callable[[str], Driver], model: str
) -> None:
    driver = drivers(model)
    driver.submit(1, prompt(1000), 30)
    driver.run()
    cost = driver.ready.kv
    assert cost is not None
    most = max(step.kv_bytes for step in driver.steps if step.rows)
    assert 0.75 * cost.at(1030) <= most <= cost.at(1030)
