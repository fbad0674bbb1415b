"""Rows of very different lengths run in batches of their own, and nobody can tell but by cost."""

from collections.abc import Callable, Iterator

import pytest

from opta_lmx.backends.frames import Keep, Log, Reuse
from opta_lmx.core.types import SamplingParams
from tests.integration.mlx.child import Child
from tests.integration.mlx.conftest import GREEDY, MODELS, Driver, prompt

pytestmark = pytest.mark.engine

NARROW = {"kv_bytes": 8 * 4096 * 150}
"""Padding may come to some 150 tokens of the tiny Llama, in all."""
SEEDED = SamplingParams(temperature=0.9, seed=5)
LENGTHS = (20, 330, 24, 600, 16)


@pytest.fixture(scope="module")
def narrow(child: Child) -> Iterator[Callable[[str], Driver]]:
    """Engines that allow next to no padding."""
    loaded: dict[str, Driver] = {}

    def get(name: str) -> Driver:
        if name not in loaded:
            loaded[name] = Driver(child, MODELS[name](), options=NARROW)
        driver = loaded[name]
        driver.inject("none", 0)
        driver.forget()
        driver.tune(60_000)
        return driver

    yield get
    for driver in loaded.values():
        driver.unload()


@pytest.mark.parametrize(
    ("model", "sampling"),
    [("llama", SEEDED), *((model, GREEDY) for model in ("llama", "sliding", "hybrid"))],
)
def test_the_text_is_the_same_in_whichever_batch(
    drivers: Callable[[str], Driver],
    narrow: Callable[[str], Driver],
    model: str,
    sampling: SamplingParams,
) -> None:
    prompts = [prompt(length, at) for at, length in enumerate(LENGTHS)]
    alone = [drivers(model).alone(ids, 16, sampling=sampling) for ids in prompts]
    driver = narrow(model)
    for request, ids in enumerate(prompts):
        driver.submit(request, ids, 16, sampling, top=1)
        driver.step()
    driver.run()
    assert [driver.ids(request) for request in range(len(prompts))] == alone
    if sampling is GREEDY:  # every row has its own log-probabilities
        tokens = [token for request in driver.tokens for token in driver.tokens[request]]
        assert all(token.top and token.top[0].id == token.id for token in tokens)
    # One frame for each step, whatever it took.
    assert max(step.rows for step in driver.steps) == len(prompts)
    assert sorted(driver.released) == list(range(len(prompts)))


def test_short_rows_do_not_pay_for_a_long_ones_padding(driver: Driver) -> None:
    driver.tune(60_000)

    def kv_bytes(short: int, *long: int) -> int:
        """When short rows are joined by longer ones, and all decode."""
        driver.forget()
        for request in range(short):
            driver.submit(request, prompt(60, request), 40)
        if short:
            driver.run(until=lambda: len(driver.tokens) == short)
        for request, length in enumerate(long, start=short):
            driver.submit(request, prompt(length), 3)
        driver.run()
        return max(step.kv_bytes for step in driver.steps if step.rows == short + len(long))

    shorts = kv_bytes(6)
    assert kv_bytes(6, 1800) <= shorts + kv_bytes(0, 1800)
    # A little padding is cheaper than another batch.
    assert kv_bytes(6, 600) > 1.5 * (shorts + kv_bytes(0, 600))


def test_a_row_goes_on_in_another_batch(narrow: Callable[[str], Driver]) -> None:
    driver = narrow("llama")
    ids, other = prompt(30, 1), prompt(600, 2)
    whole, beside = driver.alone(ids, 40, sampling=SEEDED), driver.alone(other, 60)
    driver.submit(1, ids, 40, SEEDED, keep_end=7)
    driver.submit(2, other, 60, keep=(Keep(8, 400),))
    driver.run(until=lambda: len(driver.ids(1)) == 9)
    driver.cancel(1, hold=True)
    first = driver.ids(1)
    reuse = Reuse(7, driver.kept[7].tokens)
    driver.submit(3, ids, 40, SEEDED, generated=tuple(first), reuse=reuse)
    driver.submit(4, other, 60, reuse=Reuse(8, 400))
    driver.run()
    assert first + driver.ids(3) == whole
    assert driver.ids(2) == driver.ids(4) == beside
    assert driver.cached == {1: 0, 2: 0, 3: reuse.tokens, 4: 400}
    driver.cache(drop=(7, 8))


@pytest.mark.parametrize("at", [1, 3])
def test_a_batch_that_fails_leaves_the_others_as_they_are(
    narrow: Callable[[str], Driver], at: int
) -> None:
    driver = narrow("llama")
    prompts = [prompt(length, request) for request, length in enumerate((20, 600, 24))]
    alone = [driver.alone(ids, 20) for ids in prompts]
    for request, ids in enumerate(prompts):
        driver.submit(request, ids, 20)
    driver.run(until=lambda: all(driver.ids(request) for request in range(3)))
    steps = len(driver.steps)
    driver.inject("model", at)
    driver.run()
    again = {row[0] for step in driver.steps[steps:] for row in step.prefill}
    assert again == {1}  # the second batch's turn was the one that failed
    assert [driver.ids(request) for request in range(3)] == alone
    assert [log.event for log in driver.frames if isinstance(log, Log)] == ["step_failed"]
    assert not driver.faults
