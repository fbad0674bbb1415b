"""An answer that was cut anywhere goes on as if it had never stopped."""

from collections.abc import Callable
from typing import Any

import pytest

from opta_lmx.core.types import SamplingParams
from tests.integration.mlx.child import Child
from tests.integration.mlx.conftest import GREEDY, Driver, prompt
from tests.support.constrained import json_grammar
from tests.support.tiny import tiny_llama

pytestmark = pytest.mark.engine

TOKENS = 18
IDS = prompt(90, 4)
SEEDED = SamplingParams(temperature=1.0, top_k=300, top_p=0.95, seed=11)
PENALIZED = SamplingParams(
    temperature=0.8,
    seed=5,
    frequency_penalty=3.0,
    presence_penalty=2.0,
    repetition_penalty=1.4,
)
ARRAY = json_grammar({"type": "array", "items": {"type": "string"}, "minItems": 4})
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"sampling": GREEDY},
    "seeded": {"sampling": SEEDED},
    "penalties": {"sampling": PENALIZED},
    "greedy penalties": {"sampling": SamplingParams(temperature=0.0, repetition_penalty=1.3)},
    "bias": {"sampling": SEEDED, "logit_bias": ((500, 9.0), (501, 9.0))},
    "grammar": {"sampling": SEEDED, "grammar": ARRAY},
    "all": {"sampling": PENALIZED, "grammar": ARRAY, "top": 3},
}


def resumed_at_every_token(driver: Driver, options: dict[str, Any]) -> None:
    """Cut the answer everywhere; what was delivered and what comes must be the whole answer."""
    driver.submit(0, IDS, TOKENS, **options)
    driver.run()
    whole, text = driver.tokens[0], driver.text(0)
    driver.forget()
    assert len(whole) >= 15
    assert len({token.id for token in whole}) > 3
    cuts = range(1, len(whole))
    for start in range(0, len(cuts), 8):
        for at in cuts[start : start + 8]:
            ids = tuple(token.id for token in whole[:at])
            driver.submit(at, IDS, TOKENS, generated=ids, **options)
        driver.run()
    assert not driver.faults
    for at in cuts:
        before = b"".join(token.piece for token in whole[:at])
        assert before + driver.text(at) == text
        assert [token.finish for token in driver.tokens[at]] == [t.finish for t in whole[at:]]
        if options.get("top") is None:
            continue
        for again, once in zip(driver.tokens[at], whole[at:], strict=True):
            assert again.logprob == pytest.approx(once.logprob, abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_of_an_answer(driver: Driver, kind: str) -> None:
    assert driver.ready.resumes == "all"
    assert driver.ready.pauses
    resumed_at_every_token(driver, KINDS[kind])


@pytest.mark.parametrize("model", ["sliding", "qwen2", "hybrid"])
@pytest.mark.parametrize("kind", ["greedy", "seeded"])
def test_other_kinds_of_models(drivers: Callable[[str], Driver], model: str, kind: str) -> None:
    resumed_at_every_token(drivers(model), KINDS[kind])


def test_the_context_and_max_tokens_count_the_whole_answer(child: Child) -> None:
    driver = Driver(child, tiny_llama(), context=128, slots=4)
    whole = driver.alone(IDS, 10)
    driver.submit(1, IDS, 10, generated=tuple(whole[:9]))
    driver.submit(2, IDS, 10, generated=tuple(whole))
    driver.run()
    assert driver.ids(1) == whole[9:]
    assert driver.tokens[1][0].finish == "length"
    assert [(fault.id, fault.code) for fault in driver.faults] == [(2, "bad_request")]
    length = driver.ready.context - len(IDS)
    driver.forget()
    driver.submit(3, IDS, 10**6, generated=(500,) * (length - 2))
    driver.submit(4, IDS, 10**6, generated=(500,) * length)
    driver.submit(5, IDS, 10**6, generated=(5000,))
    driver.run()
    assert [token.finish for token in driver.tokens[3]] == [None, "length"]
    assert sorted(fault.id or 0 for fault in driver.faults) == [4, 5]
    driver.unload()


def test_tokens_that_do_not_fit_the_grammar_are_refused(driver: Driver) -> None:
    alone = driver.alone(IDS, 8)
    driver.submit(1, IDS, 8)
    driver.submit(2, IDS, 60, grammar=ARRAY, generated=(500, 501, 502))
    driver.run()
    assert [(fault.id, fault.code) for fault in driver.faults] == [(2, "bad_request")]
    assert "grammar" in driver.faults[0].message
    assert driver.ids(1) == alone
    assert sorted(driver.released) == [1, 2]
