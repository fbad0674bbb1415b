"""How requests end: end of text, length, cancellation, refusal. And their log-probabilities."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from opta_lmx.core.types import SamplingParams
from tests.integration.mlx.child import Child
from tests.integration.mlx.conftest import GREEDY, Driver, prompt
from tests.support.tiny import CONTEXT, VOCAB, tiny_llama


def test_an_end_token_stops_without_text(child: Child, tmp_path: Path, driver: Driver) -> None:
    alone = driver.alone(prompt(10), 8)
    folder = shutil.copytree(tiny_llama(), tmp_path / "model")
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [alone[5]], "temperature": 0.3, "top_k": 7})
    )
    other = Driver(child, folder, slots=2)
    assert other.ready.sampling == SamplingParams(temperature=0.3, top_k=7)
    other.submit(1, prompt(10), 8)
    other.run()
    assert other.ids(1) == alone[:6]
    assert [token.finish for token in other.tokens[1]] == [None] * 5 + ["stop"]
    assert other.tokens[1][-1].piece == b""
    assert other.released == [1]


def test_the_context_bounds_the_answer(child: Child) -> None:
    driver = Driver(child, tiny_llama(), context=32, slots=2)
    assert driver.ready.context == 32
    driver.submit(1, prompt(28), max_tokens=1000)
    driver.run()
    assert len(driver.ids(1)) == 4
    assert driver.tokens[1][-1].finish == "length"


@pytest.mark.parametrize("stage", ["queued", "prefilling", "decoding", "finished", "unknown"])
def test_cancelling_frees_the_row_and_leaves_others_alone(driver: Driver, stage: str) -> None:
    others = {1: prompt(20, 1), 2: prompt(11, 2)}
    alone = {request: driver.alone(ids, 60) for request, ids in others.items()}
    victim = driver.alone(prompt(300, 3), 20)
    for request, ids in others.items():
        driver.submit(request, ids, 60)
    driver.submit(3, prompt(300, 3), 2 if stage == "finished" else 20)
    if stage == "prefilling":
        driver.run(until=lambda: bool(driver.started))
        driver.run(until=lambda: any(row[0] == 3 for s in driver.steps for row in s.prefill))
        assert driver.steps[-1].prefill[-1][1] < 300
    elif stage == "decoding":
        driver.run(until=lambda: len(driver.ids(3)) == 5)
    elif stage == "finished":
        driver.run(until=lambda: 3 in driver.released)
    driver.cancel(99 if stage == "unknown" else 3)
    assert driver.released == ([] if stage == "unknown" else [3])
    before = len(driver.ids(3))
    driver.run()
    assert {request: driver.ids(request) for request in others} == alone
    assert sorted(driver.released) == [1, 2, 3]
    assert driver.ids(3) == victim[: len(driver.ids(3))]
    if stage != "unknown":
        assert len(driver.ids(3)) == before
    assert driver.steps[-1].kv_bytes == 0


def test_cancelling_the_last_row_leaves_an_idle_engine_that_works(driver: Driver) -> None:
    alone = driver.alone(prompt(10), 6)
    driver.submit(1, prompt(10), 50)
    driver.run(until=lambda: len(driver.ids(1)) == 3)
    driver.cancel(1)
    assert not driver.busy
    assert driver.step() is None
    assert driver.alone(prompt(10), 6) == alone


@pytest.mark.parametrize(
    ("ids", "max_tokens", "sampling"),
    [
        ((), 5, GREEDY),
        ((VOCAB,), 5, GREEDY),
        ((-1,), 5, GREEDY),
        (tuple([5] * CONTEXT), 5, GREEDY),
        ((5, 6), 0, GREEDY),
        ((5, 6), 5, SamplingParams(temperature=math.nan)),
        ((5, 6), 5, SamplingParams(temperature=-1.0)),
        ((5, 6), 5, SamplingParams(temperature=1.0, top_p=math.inf)),
    ],
)
def test_impossible_requests_are_faults_that_harm_nobody(
    driver: Driver, ids: tuple[int, ...], max_tokens: int, sampling: SamplingParams
) -> None:
    alone = driver.alone(prompt(10), 6)
    driver.submit(1, prompt(10), 6)
    driver.step()
    driver.submit(2, ids, max_tokens, sampling)
    driver.run()
    assert [(fault.id, fault.code) for fault in driver.faults] == [(2, "bad_request")]
    assert driver.released == [2, 1]
    assert driver.ids(1) == alone


@pytest.mark.parametrize("seed", [0, -1, 2**63, -(2**63), 2**80])
def test_extreme_seeds_and_parameters_never_break_a_step(driver: Driver, seed: int) -> None:
    wild = SamplingParams(temperature=1e30, top_k=10**9, top_p=5.0, min_p=7.0, seed=seed)
    first = driver.alone(prompt(4), 4, sampling=wild)
    assert len(first) == 4
    assert driver.alone(prompt(4), 4, sampling=wild) == first


def test_logprobs_are_those_of_the_distribution_before_temperature(driver: Driver) -> None:
    driver.submit(1, prompt(10), 6, top=5)
    driver.submit(2, prompt(10), 6, SamplingParams(temperature=3.0, seed=1), top=3)
    driver.submit(3, prompt(10), 6, top=0)
    driver.submit(4, prompt(10), 6)
    driver.run()
    for token in driver.tokens[1]:
        assert token.top is not None
        assert token.top[0].id == token.id
        assert token.top[0].logprob == token.logprob
        values = [entry.logprob for entry in token.top]
        assert values == sorted(values, reverse=True)
        assert len(values) == 5
        assert 0 < sum(map(math.exp, values)) <= 1 + 1e-5
        assert token.top[0].piece == token.piece
    first, hot = driver.tokens[1][0], driver.tokens[2][0]
    assert hot.top is not None
    assert first.top is not None
    assert [e.id for e in hot.top] == [e.id for e in first.top[:3]]
    assert hot.top[0].logprob == pytest.approx(first.logprob, abs=1e-4)
    assert [(t.logprob is None, t.top) for t in driver.tokens[3]] == [(False, ())] * 6
    assert [(t.logprob, t.top) for t in driver.tokens[4]] == [(None, None)] * 6
    assert driver.ids(3) == driver.ids(4) == driver.ids(1)


def test_more_logprobs_than_tokens_gives_the_whole_distribution(driver: Driver) -> None:
    driver.submit(1, prompt(10), 1, top=VOCAB + 50)
    driver.run()
    top = driver.tokens[1][0].top
    assert top is not None
    assert len(top) == VOCAB
    assert sum(math.exp(entry.logprob) for entry in top) == pytest.approx(1.0, abs=1e-3)


def test_the_sliding_model_speaks_like_itself_after_a_cancel(
    drivers: Callable[[str], Driver],
) -> None:
    driver = drivers("sliding")
    alone = driver.alone(prompt(200, 5), 10)
    driver.submit(1, prompt(200, 5), 10)
    driver.submit(2, prompt(130, 6), 30)
    driver.run(until=lambda: len(driver.ids(2)) == 4)
    driver.cancel(2)
    driver.run()
    assert driver.ids(1) == alone
