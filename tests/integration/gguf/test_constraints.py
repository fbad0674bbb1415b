"""Answers held to grammars, biases and penalties on llama.cpp, through the worker."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jsonschema_rs
import pytest

from opta_lmx.backends.frames import Announce, Fault
from opta_lmx.codec.answer import Answer, AnswerStyle
from opta_lmx.codec.deltas import CallArguments, CallStart
from opta_lmx.core.types import Message, Prompt, SamplingParams, ToolChoice
from tests.support.constrained import WEATHER, call_grammar, json_grammar
from tests.support.gguf_child import GREEDY, Child
from tests.support.tiny import tiny_gguf, write_gguf
from tests.unit.codec.constraints.schemas import SCHEMAS

pytestmark = pytest.mark.engine
FORCED = ((500, 2000.0), (501, 1900.0), (502, 1800.0), (503, 1700.0))


def seeded(seed: int) -> SamplingParams:
    return SamplingParams(temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, seed=seed)


def greedy(**penalties: float) -> SamplingParams:
    return SamplingParams(temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, **penalties)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def roomy() -> Iterator[Child]:
    with Child(tiny_gguf(), context=1024) as child:
        child.ready()
        yield child


def test_every_schema_at_full_temperature(roomy: Child) -> None:
    ids = roomy.ids("def main")
    wanted = {}
    for at, name in enumerate(name for name in SCHEMAS for _ in range(3)):
        grammar = json_grammar(SCHEMAS[name])
        wanted[roomy.submit(ids, 400, seeded(at), grammar=grammar)] = name
    roomy.wait(*wanted)
    assert not roomy.of(Fault)
    finished = [number for number in wanted if roomy.tokens(number)[-1].finish == "stop"]
    assert len(finished) >= len(wanted) * 0.8
    assert {wanted[number] for number in finished} == set(SCHEMAS)
    for number in finished:
        validator = jsonschema_rs.validator_for(SCHEMAS[wanted[number]])
        validator.validate(json.loads(roomy.text(number)))


def test_a_required_call_of_the_starter(starter: Child) -> None:
    chat = Prompt(messages=(Message("user", "What is the weather in Oslo?"),), tools=(WEATHER,))
    ids = starter.prepare(chat).ids
    speech = starter.ready().speech
    grammar = call_grammar(speech, WEATHER)
    for sampling in (GREEDY, seeded(4)):
        answer = Answer(AnswerStyle(speech=speech, tools=(WEATHER,)))
        tokens = starter.generate(ids, max_tokens=100, sampling=sampling, grammar=grammar)
        deltas = [delta for token in tokens for delta in answer.feed(token.piece)]
        last, finish = answer.finish("stop")
        deltas += last
        assert finish == "tool_calls"
        assert [d.name for d in deltas if isinstance(d, CallStart)] == ["get_weather"]
        written = "".join(d.text for d in deltas if isinstance(d, CallArguments))
        jsonschema_rs.validator_for(WEATHER.parameters).validate(json.loads(written))


def test_text_beside_a_call_that_may_come_ends_as_it_would_alone(starter: Child) -> None:
    """The token that ends it is not the one that llama.cpp's grammars end with."""
    chat = Prompt(messages=(Message("user", "What is the capital of France?"),), tools=(WEATHER,))
    ids = starter.prepare(chat).ids
    auto = call_grammar(starter.ready().speech, WEATHER, tool_choice=ToolChoice())
    alone = starter.generate(ids, max_tokens=60)
    held = starter.generate(ids, max_tokens=60, grammar=auto)
    assert alone[-1].finish == "stop"
    assert [(out.piece, out.finish) for out in held] == [(out.piece, out.finish) for out in alone]


def test_grammars_that_cannot_be_used_are_refused_and_the_server_lives(roomy: Child) -> None:
    ids, before = roomy.ids("def main"), len(roomy.of(Fault))
    for grammar in ("start: missing", "start: (", "%llguidance {}\nstart: %json {"):
        roomy.generate(ids, max_tokens=4, grammar=grammar)
    faults = roomy.of(Fault)[before:]
    assert [fault.code for fault in faults] == ["bad_request"] * 3
    assert len(roomy.generate(ids, max_tokens=4)) == 4


def test_a_request_cancelled_while_its_grammar_compiles(roomy: Child) -> None:
    ids, faults = roomy.ids("def main"), len(roomy.of(Fault))
    compiled = len(compilations(roomy))
    slow = {"enum": [f"{n:x}" * 9 for n in range(4000)]}
    schemas = (slow, {"const": 1}, {"const": 2})
    numbers = [roomy.submit(ids, 4, grammar=json_grammar(schema)) for schema in schemas]
    roomy.cancel(numbers[0])
    roomy.wait(*numbers)
    assert roomy.tokens(numbers[0]) == []
    assert [roomy.text(number) for number in numbers[1:]] == ["1", "2"]
    assert len(roomy.of(Fault)) == faults
    # Each is a sign of life: the watchdog's time is for one, not for all of them.
    assert len(compilations(roomy)) >= compiled + 2


def compilations(child: Child) -> list[Announce]:
    return [frame for frame in child.of(Announce) if frame.op == "grammar"]


def test_an_answer_that_leaves_its_grammar_is_a_failure_not_an_answer() -> None:
    """A vocabulary that writes a space before every text, which llama.cpp's grammars miss."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spaces.gguf"
        write_gguf(path, sentencepiece=True)
        with Child(path, context=256) as child:
            assert child.ready().lacks == ("grammar",)
            child.generate(child.ids("def"), max_tokens=60, grammar=json_grammar(SCHEMAS["nested"]))
            (fault,) = child.of(Fault)
            assert fault.code == "step_failed"
            assert len(child.generate(child.ids("def"), max_tokens=3)) == 3


def test_a_high_bias_forces_a_token_and_a_low_one_bans_it(roomy: Child) -> None:
    ids = roomy.ids("def main")
    usual = [out.id for out in roomy.generate(ids, max_tokens=6)]
    forced = roomy.generate(ids, max_tokens=6, logit_bias=((500, 100.0),))
    assert [out.id for out in forced] == [500] * 6
    low = tuple((token, -100.0) for token in usual)
    banned = [out.id for out in roomy.generate(ids, max_tokens=6, logit_bias=low)]
    assert not set(banned) & set(usual)


def test_biases_outside_the_vocabulary_are_refused(roomy: Child) -> None:
    before = len(roomy.of(Fault))
    roomy.generate(roomy.ids("def"), max_tokens=2, logit_bias=((4096, 1.0),))
    assert [fault.code for fault in roomy.of(Fault)[before:]] == ["bad_request"]


@pytest.mark.parametrize("penalty", ["frequency_penalty", "presence_penalty"])
def test_a_loop_is_left(roomy: Child, penalty: str) -> None:
    ids = roomy.ids("def main")
    sampling = greedy(**{penalty: 1000.0})
    left = roomy.generate(ids, max_tokens=4, sampling=sampling, logit_bias=FORCED)
    assert [out.id for out in left] == [500, 501, 502, 503]


def test_the_prompt_counts_for_repetition_alone(roomy: Child) -> None:
    ids = (500, 500, 500, *roomy.ids("def main"))
    for penalties in ({"frequency_penalty": 1000.0}, {"presence_penalty": 1000.0}):
        sampling = greedy(**penalties)
        (out,) = roomy.generate(ids, max_tokens=1, sampling=sampling, logit_bias=FORCED)
        assert out.id == 500
    frequent = greedy(frequency_penalty=1000.0)
    left = roomy.generate(ids, max_tokens=3, sampling=frequent, logit_bias=FORCED)
    assert [out.id for out in left] == [500, 501, 502]
    repeated = greedy(repetition_penalty=2.0)
    left = roomy.generate(ids, max_tokens=2, sampling=repeated, logit_bias=FORCED[:2])
    assert [out.id for out in left] == [501, 500]


def test_logprobs_are_the_models_own(roomy: Child) -> None:
    ids = roomy.ids("def main")
    (plain,) = roomy.generate(ids, max_tokens=1, top_logprobs=20)
    (held,) = roomy.generate(ids, max_tokens=1, top_logprobs=20, grammar=json_grammar(None))
    assert held.piece.startswith(b"{")
    assert plain.top is not None
    assert held.top is not None
    assert [top.id for top in held.top] == [top.id for top in plain.top]
    values = [top.logprob for top in held.top]
    assert values == sorted(values, reverse=True)
    assert held.logprob is not None
    assert held.logprob < values[0]
