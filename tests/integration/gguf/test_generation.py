"""What llama.cpp generates through the worker: exact counts, reasons, bytes and probabilities."""

import math

import pytest

from opta_lmx.backends.frames import Fault, Released, Step
from opta_lmx.core.types import Message, Prompt, SamplingParams
from tests.support.gguf_child import Child

pytestmark = pytest.mark.engine
CHAT = Prompt(messages=(Message("user", "Say hello to Bob."),))
SEEDED = SamplingParams(temperature=1.0, top_p=0.95, top_k=40, min_p=0.0, seed=11)


def test_chat_is_answered_and_ends_with_the_end_token(starter: Child) -> None:
    prepared = starter.prepare(CHAT)
    number = starter.submit(prepared.ids, max_tokens=120)
    starter.wait(number)
    tokens = starter.tokens(number)
    assert len(starter.text(number)) > 10
    assert [out.finish for out in tokens[:-1]] == [None] * (len(tokens) - 1)
    assert (tokens[-1].finish, tokens[-1].piece) == ("stop", b"")
    assert "<|im_end|>" not in starter.text(number)


def test_greedy_runs_are_equal(starter: Child) -> None:
    ids = starter.prepare(CHAT).ids
    first, second = (starter.generate(ids, max_tokens=24) for _ in range(2))
    assert [out.id for out in first] == [out.id for out in second]


def test_seeded_runs_are_equal_and_seeds_matter(starter: Child) -> None:
    ids = starter.ids("Once upon a time")
    runs = [starter.generate(ids, max_tokens=16, sampling=SEEDED) for _ in range(2)]
    other = SamplingParams(temperature=1.0, top_p=0.95, top_k=40, min_p=0.0, seed=12)
    runs.append(starter.generate(ids, max_tokens=16, sampling=other))
    texts = [[out.id for out in run] for run in runs]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("count", [1, 2, 17])
def test_limit_is_exact(tiny: Child, count: int) -> None:
    tokens = tiny.generate(tiny.ids("def main"), max_tokens=count)
    assert len(tokens) == count
    assert [out.finish for out in tokens] == [None] * (count - 1) + ["length"]


def test_full_window_ends_the_answer(tiny: Child) -> None:
    ids = (*tiny.ids("import os"), *[40] * 200)
    tokens = tiny.generate(ids, max_tokens=10_000)
    assert tokens[-1].finish == "length"
    assert 256 - 2 <= len(ids) + len(tokens) <= 256 + 1


def test_steps_are_numbered_timed_and_tell_the_prompts_progress(tiny: Child) -> None:
    before = len(tiny.of(Step))
    ids = tuple(range(100, 300))
    number = tiny.submit(ids, max_tokens=8)
    tiny.wait(number)
    steps = tiny.of(Step)[before:]
    assert [step.n for step in steps] == list(range(steps[0].n, steps[0].n + len(steps)))
    assert all(step.ms >= 0 for step in steps)
    assert max(step.rows for step in steps) == 1
    assert steps[-1].kv_bytes == 0
    assert max(step.kv_bytes for step in steps) > 0
    done = tiny.prefill(number)
    assert done[-1] == (200, 200)
    assert len(done) > 2, "a prompt of four batches reports more than its start and end"


def test_repeated_prompt_is_cached_but_for_what_must_be_computed(tiny: Child) -> None:
    ids = tuple(range(500, 600))
    numbers = [tiny.submit(ids, max_tokens=2)]
    tiny.wait(*numbers)
    numbers.append(tiny.submit(ids, max_tokens=2))
    tiny.wait(*numbers)
    assert [tiny.started(number) for number in numbers] == [[0], [99]]


def test_four_streams_run_together_and_each_is_complete(starter: Child) -> None:
    words = ("Once upon", "The sea is", "My cat likes", "In Paris there")
    prompts = [starter.ids(text) for text in words]
    before = len(starter.of(Step))
    numbers = [starter.submit(ids, max_tokens=24) for ids in prompts]
    starter.wait(*numbers)
    for number in numbers:
        tokens = starter.tokens(number)
        assert tokens[-1].finish == ("length" if len(tokens) == 24 else "stop")
    assert max(step.rows for step in starter.of(Step)[before:]) == 4


def test_characters_are_whole_and_every_token_counts(starter: Child) -> None:
    ids = starter.ids("😀🎉🌟 emoji: 😀🎉🌟 emoji: 😀🎉")
    for limit in range(1, 9):
        number = starter.submit(ids, max_tokens=limit)
        starter.wait(number)
        tokens = starter.tokens(number)
        assert len(tokens) == limit
        assert "\ufffd" not in starter.text(number)
    assert any(len(out.piece.decode()) < len(out.piece) for out in tokens), "no emoji came"
    assert all(out.id >= 0 for out in tokens[:-3])


def test_held_tokens_are_the_models_own(starter: Child) -> None:
    """Feeding back the ids of an answer continues it as the longer answer does."""
    ids = starter.ids("😀🎉🌟 emoji: 😀🎉🌟 emoji: 😀🎉")
    whole = starter.generate(ids, max_tokens=12)
    half = [out.id for out in whole[:6]]
    rest = starter.generate((*ids, *half), max_tokens=6)
    assert [out.id for out in rest] == [out.id for out in whole[6:]]


def test_logprobs_are_natural_sorted_and_exact(starter: Child) -> None:
    ids = starter.ids("The capital of France is")
    tokens = starter.generate(ids, max_tokens=4, top_logprobs=5)
    for out in tokens:
        assert out.logprob is not None
        assert out.top is not None
        assert len(out.top) == 5
        assert (out.top[0].id, out.top[0].piece) == (out.id, out.piece)
        assert math.isclose(out.top[0].logprob, out.logprob, abs_tol=1e-5)
        values = [other.logprob for other in out.top]
        assert values == sorted(values, reverse=True)
        assert sum(math.exp(value) for value in values) <= 1 + 1e-6
    assert tokens[0].piece == b" Paris"


def test_logprob_of_the_chosen_token_alone(starter: Child) -> None:
    ids = starter.ids("The capital of France is")
    (out,) = starter.generate(ids, max_tokens=1, top_logprobs=0)
    assert out.top == ()
    assert out.logprob is not None
    (plain,) = starter.generate(ids, max_tokens=1)
    assert (plain.logprob, plain.top) == (None, None)


def test_refused_request_faults_and_frees_its_slot(tiny: Child) -> None:
    too_long = tiny.submit([5] * 2000, max_tokens=4)
    bad_token = tiny.submit([5, 10**6], max_tokens=4)
    tiny.wait(too_long, bad_token)
    faults = {frame.id: frame for frame in tiny.of(Fault)}
    assert "leaves no room" in faults[too_long].message
    assert {faults[number].code for number in (too_long, bad_token)} == {"bad_request"}
    assert len(tiny.generate([5, 6, 7], max_tokens=3)) == 3


def test_more_requests_than_slots_all_finish(tiny: Child) -> None:
    numbers = [tiny.submit(range(100 + n, 140 + n), max_tokens=12) for n in range(10)]
    tiny.wait(*numbers)
    assert [len(tiny.tokens(number)) for number in numbers] == [12] * 10
    released = [frame.id for frame in tiny.of(Released)]
    assert sorted(released) == sorted(set(released)), "nobody is released twice"
