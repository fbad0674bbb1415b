"""Answers held to grammars on MLX: valid, ended, and no harm to the rows beside them."""

import json
from collections.abc import Iterator

import jsonschema_rs
import pytest

from opta_lmx.backends.frames import Announce, TokenOut
from opta_lmx.codec.answer import Answer, AnswerStyle
from opta_lmx.codec.deltas import CallArguments, CallStart
from opta_lmx.core.types import Message, Prompt, SamplingParams
from tests.integration.mlx.child import Child
from tests.integration.mlx.conftest import Driver, prompt
from tests.integration.mlx.converted import converted
from tests.support.constrained import WEATHER, call_grammar, json_grammar
from tests.unit.codec.constraints.schemas import SCHEMAS

pytestmark = pytest.mark.engine


def seeded(seed: int) -> SamplingParams:
    return SamplingParams(temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, seed=seed)


@pytest.fixture(scope="module")
def starter(child: Child) -> Iterator[Driver]:
    driver = Driver(child, converted("starter"), context=1024)
    yield driver
    driver.unload()


def ended(tokens: list[TokenOut]) -> bool:
    return tokens[-1].finish == "stop"


def test_every_schema_at_full_temperature(driver: Driver) -> None:
    names = [name for name in SCHEMAS for _ in range(3)]
    for at, name in enumerate(names):
        grammar = json_grammar(SCHEMAS[name])
        driver.submit(at, prompt(12, at), 400, seeded(at), grammar=grammar)
    driver.run()
    assert not driver.faults
    finished = [at for at in range(len(names)) if ended(driver.tokens[at])]
    assert len(finished) >= len(names) * 0.8
    assert {names[at] for at in finished} == set(SCHEMAS)
    for at in finished:
        validator = jsonschema_rs.validator_for(SCHEMAS[names[at]])
        validator.validate(json.loads(driver.text(at)))


def test_rows_beside_a_grammar_are_untouched(driver: Driver) -> None:
    free = driver.alone(prompt(9), 40)
    drawn = driver.alone(prompt(9, 1), 40, sampling=seeded(5))
    driver.submit(1, prompt(30, 2), 60, seeded(1), grammar=json_grammar(None))
    driver.submit(2, prompt(9), 40)
    driver.submit(3, prompt(9, 1), 40, seeded(5))
    driver.submit(4, prompt(14, 3), 60, grammar=json_grammar(SCHEMAS["nested"]))
    driver.run(lambda: len(driver.tokens.get(1, ())) > 5)
    driver.cancel(1)
    driver.run()
    assert (driver.ids(2), driver.ids(3)) == (free, drawn)
    assert sorted(driver.released) == [1, 2, 3, 4]


def test_a_seeded_answer_with_a_grammar_repeats_in_a_batch(driver: Driver) -> None:
    assert driver.ready.repeatable
    grammar = json_grammar({"type": "array", "items": {"type": "string"}, "maxItems": 4})
    penalty = SamplingParams(temperature=1.0, min_p=0.0, seed=3, frequency_penalty=0.7)
    for sampling in (seeded(3), penalty):
        alone = driver.alone(prompt(20), 80, sampling=sampling, grammar=grammar)
        for other in range(1, 5):
            driver.submit(other, prompt(8 + other, other), 50, seeded(other))
        driver.submit(0, prompt(20), 80, sampling, grammar=grammar)
        driver.run()
        assert driver.ids(0) == alone
        driver.forget()


def test_grammars_that_cannot_be_used_are_refused(driver: Driver) -> None:
    driver.submit(1, prompt(8), 8, grammar="start: missing")
    driver.submit(2, prompt(8), 8)
    driver.run()
    assert [(fault.id, fault.code) for fault in driver.faults] == [(1, "bad_request")]
    assert len(driver.ids(2)) == 8
    assert sorted(driver.released) == [1, 2]


def test_a_request_cancelled_while_its_grammar_compiles(driver: Driver) -> None:
    driver.submit(1, prompt(8), 8, grammar=json_grammar(SCHEMAS["$ref"]))
    driver.cancel(1)
    driver.run()
    assert (driver.released, driver.tokens) == ([1], {})


def test_every_grammar_that_is_compiled_is_a_sign_of_life(driver: Driver) -> None:
    """The watchdog's time is for one of them, not for all that wait."""
    for number in range(11, 14):
        driver.submit(number, prompt(8), 2, grammar=json_grammar({"const": number}))
    driver.run()
    signs = [frame for frame in driver.frames if isinstance(frame, Announce)]
    assert [sign.op for sign in signs].count("grammar") >= 3


def test_a_grammar_that_breaks_off_ends_its_row_alone(driver: Driver) -> None:
    # Far beyond what the library does for one token.
    grammar = "%llguidance {}\nstart: T\nT: /(?s:.*a.{1500}b.{1500}){1,500}/ & ~/(x.{900}y){9}/\n"
    free = driver.alone(prompt(9), 30)
    driver.submit(1, prompt(8), 30, seeded(2), grammar=grammar)
    driver.submit(2, prompt(9), 30)
    driver.run()
    assert driver.ids(2) == free
    assert sorted(driver.released) == [1, 2]


def test_logprobs_are_the_models_own(driver: Driver) -> None:
    driver.submit(1, prompt(10), 1, top=20)
    driver.submit(2, prompt(10), 1, top=20, grammar=json_grammar(None), logit_bias=((500, 50.0),))
    driver.run()
    (plain,), (held,) = driver.tokens[1], driver.tokens[2]
    assert plain.top is not None
    assert held.top is not None
    assert held.piece.startswith(b"{")
    assert [top.id for top in held.top] == [top.id for top in plain.top]
    for left, right in zip(held.top, plain.top, strict=True):
        assert left.logprob == pytest.approx(right.logprob, abs=1e-4)
    assert held.logprob is not None
    assert held.logprob < held.top[0].logprob


def test_a_required_call_of_the_starter(starter: Driver) -> None:
    chat = Prompt(
        messages=(Message("user", "What is the weather in Oslo?"),),
        tools=(WEATHER,),
    )
    ids = starter.prepare(chat)
    speech = starter.ready.speech
    grammar = call_grammar(speech, WEATHER)
    starter.submit(1, ids, 80, SamplingParams(temperature=0.0), grammar=grammar)
    starter.submit(2, ids, 80, seeded(4), grammar=grammar)
    starter.run()
    for request in (1, 2):
        answer = Answer(AnswerStyle(speech=speech, tools=(WEATHER,)))
        deltas = [delta for token in starter.tokens[request] for delta in answer.feed(token.piece)]
        last, finish = answer.finish("stop")
        deltas += last
        assert finish == "tool_calls"
        assert [d.name for d in deltas if isinstance(d, CallStart)] == ["get_weather"]
        written = "".join(d.text for d in deltas if isinstance(d, CallArguments))
        jsonschema_rs.validator_for(WEATHER.parameters).validate(json.loads(written))
