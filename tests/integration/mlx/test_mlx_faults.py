"""What raises inside a step costs the request it belongs to, and nobody else."""

from collections.abc import Callable, Iterator

import pytest

from opta_lmx.backends.frames import Keep, Log, Reuse
from opta_lmx.backends.mlx.pacing import MAX_CHUNK
from opta_lmx.core.types import SamplingParams
from tests.integration.mlx.child import Child
from tests.integration.mlx.conftest import MODELS, Driver, prompt

pytestmark = pytest.mark.engine

VICTIMS = {
    "processor": SamplingParams(temperature=0.0, frequency_penalty=0.5),
    "sampler": SamplingParams(temperature=0.8, seed=2),
    "shared": SamplingParams(temperature=0.8),
}
LENGTHS = (40, 7, 90)
TOKENS = 16
Texts = dict[int, list[int]]
UNDISTURBED: dict[str, tuple[Texts, list[int]]] = {}
"""By model, what the neighbours get alone, and what a seeded request of 25 tokens gets."""


@pytest.fixture
def broken(drivers: Callable[[str], Driver]) -> Iterator[Driver]:
    driver = drivers("llama")
    driver.tune(60_000)
    yield driver
    driver.inject("none", 0)


def neighbours(driver: Driver) -> Texts:
    """Greedy text of three requests, each alone."""
    return {at: driver.alone(prompt(n, at), TOKENS) for at, n in enumerate(LENGTHS)}


def undisturbed(driver: Driver, model: str = "llama") -> tuple[Texts, list[int]]:
    if model not in UNDISTURBED:
        seeded = driver.alone(prompt(25, 8), TOKENS, sampling=VICTIMS["sampler"], top=2)
        UNDISTURBED[model] = (neighbours(driver), seeded)
    return UNDISTURBED[model]


def submit_neighbours(driver: Driver) -> None:
    for at, length in enumerate(LENGTHS):
        driver.submit(at, prompt(length, at), TOKENS)


def untouched(driver: Driver, alone: Texts) -> None:
    assert {at: driver.ids(at) for at in alone} == alone
    for at in alone:
        assert [token.finish for token in driver.tokens[at]] == [None] * (TOKENS - 1) + ["length"]
        assert driver.released.count(at) == 1
    assert [started.request for started in driver.started].count(0) == 1


@pytest.mark.parametrize("at", [0, 5])
@pytest.mark.parametrize("fault", VICTIMS)
def test_a_row_that_raises_ends_alone(broken: Driver, fault: str, at: int) -> None:
    alone, _ = undisturbed(broken)
    usual = broken.alone(prompt(30, 9), TOKENS, sampling=VICTIMS[fault])
    broken.inject(fault, at)
    submit_neighbours(broken)
    broken.submit(9, prompt(30, 9), TOKENS, VICTIMS[fault], keep=(Keep(1, 12),), keep_end=2)
    broken.run()
    untouched(broken, alone)
    assert [(fault.id, fault.code) for fault in broken.faults] == [(9, "step_failed")]
    assert broken.released.count(9) == 1
    assert 2 in broken.lost
    assert len(broken.ids(9)) <= max(at, 5)
    if fault != "shared":  # its draws cannot be repeated
        assert broken.ids(9) == usual[: len(broken.ids(9))]
        assert len(broken.ids(9)) == at
    broken.cache(drop=(1,))
    # The engine is as good as new.
    broken.inject("none", 0)
    broken.forget()
    assert neighbours(broken) == alone


def test_all_rows_that_raise_end_and_the_engine_goes_on(broken: Driver) -> None:
    alone, _ = undisturbed(broken)
    broken.inject("shared", 0)
    submit_neighbours(broken)
    for request in (10, 11, 12, 13):
        broken.submit(request, prompt(20, request), TOKENS, VICTIMS["shared"])
    broken.run()
    untouched(broken, alone)
    assert sorted(fault.id or 0 for fault in broken.faults) == [10, 11, 12, 13]
    broken.inject("none", 0)
    broken.forget()
    assert len(broken.alone(prompt(9), TOKENS, sampling=VICTIMS["shared"])) == TOKENS


@pytest.mark.parametrize("at", [0, 1, 2, 9])
@pytest.mark.parametrize("model", MODELS)
def test_a_step_that_fails_once_is_made_good(
    drivers: Callable[[str], Driver], model: str, at: int
) -> None:
    driver = drivers(model)
    driver.tune(60_000)
    alone, seeded = undisturbed(driver, model)
    driver.inject("model", at)
    submit_neighbours(driver)
    keep = (Keep(1, 10),)
    driver.submit(8, prompt(25, 8), TOKENS, VICTIMS["sampler"], 2, keep=keep, keep_end=2)
    driver.submit(7, prompt(25, 8), TOKENS, VICTIMS["sampler"], reuse=Reuse(1, 10))
    driver.run()
    driver.inject("none", 0)
    untouched(driver, alone)
    assert driver.ids(8) == driver.ids(7) == seeded
    assert not driver.faults
    assert [log.event for log in driver.frames if isinstance(log, Log)] == ["step_failed"]
    assert {handle: kept.tokens for handle, kept in driver.kept.items()} == {1: 10, 2: 41}
    assert sorted(driver.released) == [0, 1, 2, 7, 8]
    driver.cache(drop=(1, 2))


def test_steps_that_fail_now_and_then_are_nobodys_fault(broken: Driver) -> None:
    alone, _ = undisturbed(broken)
    broken.inject("often", 8)
    submit_neighbours(broken)
    broken.run()
    untouched(broken, alone)
    assert not broken.faults
    logs = [frame for frame in broken.frames if isinstance(frame, Log)]
    assert len(logs) >= 3


def test_a_row_starts_again_from_its_own_checkpoint(broken: Driver) -> None:
    ids = prompt(MAX_CHUNK + 200, 5)  # more than any one step takes
    alone = broken.alone(ids, TOKENS)
    broken.submit(1, ids, TOKENS, keep=(Keep(1, MAX_CHUNK + 100),))
    broken.run(until=lambda: len(broken.ids(1)) == 3)
    broken.inject("model", 0)
    before = len(broken.steps)
    broken.run()
    again = [row[1] for step in broken.steps[before:] for row in step.prefill]
    assert again
    assert min(again) > MAX_CHUNK + 100
    assert broken.ids(1) == alone
    broken.cache(drop=(1,))


def test_only_when_nothing_can_be_made_again_the_worker_gives_up(child: Child) -> None:
    driver = Driver(child, MODELS["llama"](), slots=2)
    driver.submit(1, prompt(9), 9)
    driver.inject("rebuild", 1)
    with pytest.raises(Exception, match="call 0"):
        driver.run()
    driver.inject("none", 0)
    driver.unload()
