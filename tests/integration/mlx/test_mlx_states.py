"""States held for later requests: they save the work and never change the text."""

from collections.abc import Callable

import pytest

from opta_lmx.backends.frames import Keep, Reuse
from opta_lmx.core.types import SamplingParams
from tests.integration.mlx.conftest import GREEDY, Driver, prompt
from tests.support.constrained import json_grammar

pytestmark = pytest.mark.engine

MODELS = ["llama", "sliding", "hybrid"]
SHARED = prompt(150, 1)
TAILS = [prompt(length, seed) for seed, length in enumerate((5, 33, 1, 80), start=2)]
WHOLE = 60_000


@pytest.fixture(params=MODELS)
def any_driver(drivers: Callable[[str], Driver], request: pytest.FixtureRequest) -> Driver:
    driver = drivers(request.param)
    driver.tune(WHOLE)
    return driver


def processed(driver: Driver, request: int) -> int:
    """Prompt tokens that were worked on for a request."""
    rows = [row for step in driver.steps for row in step.prefill if row[0] == request]
    return rows[-1][1] - driver.cached[request]


def test_ready_says_what_can_be_done(drivers: Callable[[str], Driver]) -> None:
    abilities = {name: drivers(name).ready.caches for name in (*MODELS, "qwen2")}
    assert abilities == {
        "llama": "trimmable",
        "qwen2": "trimmable",
        "sliding": "whole",
        "hybrid": "whole",
    }


def test_checkpoints_inside_a_prompt_serve_other_prompts(any_driver: Driver) -> None:
    driver = any_driver
    prompts = [SHARED + tail for tail in TAILS]
    alone = [driver.alone(ids, 20) for ids in prompts]
    driver.tune(1)
    driver.submit(9, prompt(4, 40), 60)
    driver.run(until=lambda: bool(driver.ids(9)))
    keep = (Keep(2, 150), Keep(1, 101), Keep(3, 151))
    driver.submit(0, prompts[0], 20, keep=keep)
    driver.run()
    assert driver.ids(0) == alone[0]
    assert [driver.kept[handle].tokens for handle in (1, 2, 3)] == [101, 150, 151]
    assert driver.cached == {9: 0, 0: 0}
    driver.forget()
    driver.tune(WHOLE)
    for request, ids in enumerate(prompts):  # several forks of one state at once
        driver.submit(request, ids, 20, reuse=Reuse(2, 150))
    driver.submit(8, prompts[1], 20, reuse=Reuse(1, 101))
    driver.run()
    assert driver.cached == {0: 150, 1: 150, 2: 150, 3: 150, 8: 101}
    assert [driver.ids(request) for request in range(4)] == alone
    assert driver.ids(8) == alone[1]
    assert processed(driver, 1) == 33
    driver.forget()
    driver.submit(4, prompts[3], 20, reuse=Reuse(2, 150))  # the state is as it was
    driver.run()
    assert (driver.cached, driver.ids(4)) == ({4: 150}, alone[3])
    driver.cache(drop=(1, 2, 3))
    assert driver.lost == [1, 2, 3]


def test_the_next_turn_goes_on_from_the_answers_end(any_driver: Driver) -> None:
    driver = any_driver
    history, handle, before = SHARED, 0, 0
    for turn in range(4):
        history += TAILS[turn]
        alone = driver.alone(history, 10)
        reuse = Reuse(handle, before) if handle else None
        handle = 50 + turn
        driver.submit(turn, history, 10, reuse=reuse, keep_end=handle)
        driver.run()
        assert driver.ids(turn) == alone
        assert driver.cached[turn] == (0 if reuse is None else reuse.tokens)
        before = driver.kept[handle].tokens
        history += tuple(alone)
        assert before == len(history)
    driver.cache(drop=(50, 51, 52, 53))


def test_a_prompt_and_then_its_own_completion(any_driver: Driver) -> None:
    """What ends mlx-lm's server: everything asked for is held already."""
    driver = any_driver
    first = driver.alone(SHARED, 10)
    whole = SHARED + tuple(first)
    after = driver.alone(whole, 10)
    driver.submit(1, SHARED, 10, keep_end=1)
    driver.run()
    for request, tokens in ((2, len(whole)), (3, len(whole) - 1)):
        driver.submit(request, whole, 10, reuse=Reuse(1, tokens))
    driver.submit(4, SHARED, 10, reuse=Reuse(1, 150))
    driver.run()
    # A hit leaves one token, where the state can be made shorter by it.
    usable = {"trimmable": (159, 149), "whole": (0, 0)}[driver.ready.caches]
    assert driver.cached == {1: 0, 2: usable[0], 3: usable[0], 4: usable[1]}
    assert driver.ids(2) == driver.ids(3) == after
    assert driver.ids(4) == first
    assert not driver.faults
    driver.cache(drop=(1,))


def test_a_trimmed_state_serves_a_shorter_prefix(driver: Driver) -> None:
    ids = SHARED[:90] + TAILS[1]
    alone = driver.alone(ids, 10)
    driver.submit(1, SHARED, 10, keep_end=1)
    driver.run()
    driver.submit(2, ids, 10, reuse=Reuse(1, 90))
    driver.submit(3, ids, 10, reuse=Reuse(1, 91))  # more than they share: told, not believed
    driver.submit(4, ids, 10, reuse=Reuse(77, 20))
    driver.submit(5, SHARED, 10, reuse=Reuse(1, 0))
    driver.run()
    assert driver.cached == {1: 0, 2: 90, 3: 0, 4: 0, 5: 0}
    assert driver.ids(2) == driver.ids(3) == driver.ids(4) == alone
    driver.cache(drop=(1,))


def test_a_window_that_has_not_slid_can_be_trimmed(drivers: Callable[[str], Driver]) -> None:
    driver = drivers("sliding")
    ids = prompt(20, 1) + prompt(30, 2)
    alone = driver.alone(ids, 80)
    driver.submit(1, prompt(20, 1) + prompt(15, 3), 10, keep_end=1)
    driver.run()
    driver.submit(2, ids, 80, reuse=Reuse(1, 20))
    driver.run()
    assert driver.cached[2] == 20
    assert driver.ids(2) == alone
    driver.cache(drop=(1,))


def test_everything_else_a_request_may_ask_with_a_state(any_driver: Driver) -> None:
    driver = any_driver
    seeded = SamplingParams(temperature=1.0, seed=4, frequency_penalty=1.0, repetition_penalty=1.2)
    grammar = json_grammar({"type": "array", "items": {"type": "integer"}, "maxItems": 9})
    asked = [(GREEDY, None, 2), (seeded, None, None), (seeded, grammar, 1)]
    ids = SHARED + TAILS[1]
    alone = [driver.alone(ids, 15, sampling=s, grammar=g, top=t) for s, g, t in asked]
    driver.submit(9, ids, 2, keep=(Keep(1, 150),))
    driver.run()
    for request, (sampling, rules, top) in enumerate(asked):
        driver.submit(request, ids, 15, sampling, top, grammar=rules, reuse=Reuse(1, 150))
    driver.run()
    assert [driver.ids(request) for request in range(3)] == alone
    assert [driver.cached[request] for request in range(3)] == [150] * 3
    driver.cache(drop=(1,))


# --- waiting for what is to come


def test_followers_wait_for_the_leaders_checkpoint(any_driver: Driver) -> None:
    driver = any_driver
    prompts = [SHARED + tail for tail in TAILS]
    alone = [driver.alone(ids, 12) for ids in prompts]
    driver.tune(1)
    driver.submit(9, prompt(4, 40), 40)
    driver.run(until=lambda: bool(driver.ids(9)))
    driver.submit(0, prompts[0], 12, keep=(Keep(1, 150),))
    for request in (1, 2, 3):
        driver.submit(request, prompts[request], 12, reuse=Reuse(1, 150))
    driver.cache(drop=(1,))  # not before the three have taken it
    driver.run(until=lambda: 1 in driver.kept)
    assert list(driver.cached) == [9, 0]
    assert driver.lost == []
    driver.run()
    assert driver.cached == {9: 0, 0: 0, 1: 150, 2: 150, 3: 150}
    assert [driver.ids(request) for request in range(4)] == alone
    assert driver.lost == [1]


def test_a_prefix_that_many_ask_for_at_once_is_processed_once(any_driver: Driver) -> None:
    driver = any_driver  # all of them would fit into one chunk
    prompts = [SHARED + tail for tail in TAILS]
    alone = [driver.alone(ids, 12) for ids in prompts]
    driver.submit(0, prompts[0], 12, keep=(Keep(1, 150),))
    for request in (1, 2, 3):
        driver.submit(request, prompts[request], 12, reuse=Reuse(1, 150))
    driver.run()
    assert driver.cached == {0: 0, 1: 150, 2: 150, 3: 150}
    assert [driver.ids(request) for request in range(4)] == alone
    worked_on = [processed(driver, request) for request in range(4)]
    assert worked_on == [155, 33, 1, 80]
    driver.cache(drop=(1,))


@pytest.mark.parametrize("stage", ["waiting", "prefilling"])
def test_a_leader_that_goes_leaves_its_followers_to_themselves(driver: Driver, stage: str) -> None:
    ids = SHARED + TAILS[1]
    alone = driver.alone(ids, 12)
    driver.tune(1)
    driver.submit(9, prompt(4, 40), 80)
    driver.run(until=lambda: bool(driver.ids(9)))
    driver.submit(0, ids, 12, keep=(Keep(1, 150), Keep(2, 20)), keep_end=3)
    driver.submit(1, ids, 12, reuse=Reuse(1, 150))
    if stage == "prefilling":
        driver.run(until=lambda: 2 in driver.kept)
    driver.cancel(0)
    assert sorted(driver.lost) == ([1, 2, 3] if stage == "waiting" else [1, 3])
    driver.run()
    assert driver.cached[1] == 0
    assert driver.ids(1) == alone
    driver.cache(drop=(2,))


def test_a_follower_may_be_cancelled_while_it_waits(driver: Driver) -> None:
    driver.submit(0, SHARED, 4, keep=(Keep(1, 100),))
    driver.submit(1, SHARED, 4, reuse=Reuse(1, 100), keep_end=2)
    driver.cache(drop=(1,))
    driver.cancel(1)
    assert (driver.released, driver.lost) == ([1], [2])
    driver.run()
    assert driver.lost == [2, 1]


def test_a_leader_whose_grammar_is_refused(driver: Driver) -> None:
    alone = driver.alone(SHARED, 6)
    driver.submit(0, SHARED, 6, grammar="start: missing", keep=(Keep(1, 100),))
    driver.submit(1, SHARED, 6, reuse=Reuse(1, 100))
    driver.run()
    assert (driver.lost, driver.cached, driver.ids(1)) == ([1], {1: 0}, alone)


# --- cancelled answers


@pytest.mark.parametrize("keep", [None, 0, 3, 7, 100])
def test_tokens_that_are_not_wanted_are_in_no_state(driver: Driver, keep: int | None) -> None:
    driver.submit(1, SHARED, 20, keep_end=5)
    driver.run(until=lambda: len(driver.ids(1)) == 9)
    driver.cancel(1, keep)
    answered = 9 if keep is None else min(9, keep)
    assert driver.kept[5].tokens == 150 + answered
    # Two numbers of 4 bytes, for each token, layer, head and its width.
    assert driver.kept[5].bytes == (150 + answered) * 2 * 4 * 4 * 2 * 64
    ids = SHARED + tuple(driver.ids(1)[:answered]) + TAILS[0]
    driver.forget()
    alone = driver.alone(ids, 8)
    driver.submit(2, ids, 8, reuse=Reuse(5, 150 + answered))
    driver.run()
    assert driver.cached[2] == 150 + answered
    assert driver.ids(2) == alone
    driver.cache(drop=(5,))


@pytest.mark.parametrize("model", ["sliding", "hybrid"])
def test_a_state_that_cannot_be_cut_is_not_kept(
    drivers: Callable[[str], Driver], model: str
) -> None:
    driver = drivers(model)
    for request, keep, there in ((1, 3, False), (2, 9, True)):
        driver.submit(request, SHARED, 20, keep_end=request)
        driver.run(until=lambda request=request: len(driver.ids(request)) == 9)
        driver.cancel(request, keep)
        assert (request in driver.kept) == there
        assert (request in driver.lost) == (not there)
    driver.cache(drop=(2,))


def test_a_prompt_that_is_cancelled_keeps_nothing_more(driver: Driver) -> None:
    driver.tune(1)
    driver.submit(9, prompt(4, 40), 80)
    driver.run(until=lambda: bool(driver.ids(9)))
    driver.submit(1, SHARED, 4, keep=(Keep(1, 20), Keep(2, 140)), keep_end=3)
    driver.run(until=lambda: 1 in driver.kept)
    driver.cancel(1)
    assert driver.lost == [2, 3]
    driver.cancel(9)
    driver.run()
    driver.cache(drop=(1, 99))
    assert driver.lost == [2, 3, 1, 99]


def test_handles_that_make_no_sense(driver: Driver) -> None:
    driver.submit(1, SHARED, 30, keep=(Keep(1, 20),), keep_end=2)
    for request, keep, end in (
        (2, (Keep(1, 20),), 0),
        (3, (), 2),
        (4, (Keep(7, 20), Keep(7, 30)), 0),
        (5, (Keep(7, 20),), 7),
        (6, (Keep(-7, 20),), 0),
        (7, (Keep(7, 0),), 0),
    ):
        driver.submit(request, SHARED, 3, keep=keep, keep_end=end)
    driver.submit(8, SHARED, 3, keep=(Keep(8, 5000), Keep(9, 150)))
    driver.run()
    assert [fault.id for fault in driver.faults] == [2, 3, 4, 5, 6, 7]
    assert driver.lost == [8]
    assert driver.kept[9].tokens == 150
    assert driver.kept[2].tokens == 180
    driver.cache(drop=(1, 2, 9))


@pytest.mark.parametrize("fault", ["keep", "extract"])
def test_a_state_that_cannot_be_made_harms_nobody(any_driver: Driver, fault: str) -> None:
    driver = any_driver
    alone = driver.alone(SHARED, 12)
    driver.inject(fault, 0)
    driver.submit(1, SHARED, 12, keep=(Keep(1, 40),))
    driver.submit(2, SHARED, 12, reuse=Reuse(1, 40))
    driver.submit(3, SHARED, 12, keep_end=3)
    driver.submit(4, SHARED, 12, keep_end=4)
    driver.run(until=lambda: bool(driver.ids(3)))
    driver.cancel(3)
    driver.cancel(4, hold=True)
    driver.run()
    driver.inject("none", 0)
    assert driver.ids(1) == driver.ids(2) == alone
    assert sorted(driver.lost) == [1, 3, 4]
    assert sorted(driver.released) == [1, 2, 3, 4]
    assert not driver.faults
