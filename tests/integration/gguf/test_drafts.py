"""A draft model changes how fast an answer comes, never what it is."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from opta_lmx.backends.frames import Cancel, Fault, Ready, Step, TokenOut
from opta_lmx.core.types import Message, Prompt, SamplingParams
from tests.support.constrained import json_grammar
from tests.support.drafts import tiny_draft
from tests.support.gguf_child import Child, assert_the_models_own
from tests.support.starters import starter_path
from tests.support.tiny import EOS_ID, tiny_gguf, tiny_llama, write_gguf
from tests.support.waiting import wait_until
from tests.unit.codec.constraints.schemas import SCHEMAS

pytestmark = pytest.mark.engine
LONG = tuple(100 + place * 37 % 3900 for place in range(300))
OTHER = tuple(100 + place * 53 % 3900 for place in range(260))


def drafting(**load: Any) -> Child:
    """The tiny model with a draft model that is right about half of the time."""
    load = {"draft": str(tiny_draft()), "draft_tokens": 4, "context": 2048, **load}
    return Child(tiny_gguf(), **load)


@pytest.fixture(scope="module")
def drafted() -> Iterator[Child]:
    with drafting() as child:
        child.ready()
        yield child


@pytest.fixture(scope="module")
def plain() -> Iterator[Child]:
    with Child(tiny_gguf(), context=2048) as child:
        child.ready()
        yield child


def told(outs: list[TokenOut]) -> list[tuple[int, bytes, str | None]]:
    return [(out.id, out.piece, out.finish) for out in outs]


def guesses(child: Child, number: int) -> tuple[int, int]:
    """Tokens that were guessed for a request, and how many of them were right."""
    found = [one for step in child.of(Step) for one in step.drafts if one.request == number]
    return sum(one.tokens for one in found), sum(one.accepted for one in found)


def test_greedy_text_is_that_without_and_guesses_are_counted(drafted: Child, plain: Child) -> None:
    for place in range(3):
        ids = LONG[place * 80 :]
        number = drafted.submit(ids, max_tokens=48)
        drafted.wait(number)
        assert told(drafted.tokens(number)) == told(plain.generate(ids, max_tokens=48))
        tokens, accepted = guesses(drafted, number)
        assert 0 < accepted < tokens, "some guesses are right, some wrong"
        assert accepted < 48
        assert guesses(plain, 1) == (0, 0)


def test_a_model_that_drafts_for_itself_is_always_right(plain: Child) -> None:
    with drafting(draft=str(tiny_gguf()), draft_tokens=7, slots=1) as child:
        number = child.submit(LONG, max_tokens=64)
        child.wait(number)
        assert told(child.tokens(number)) == told(plain.generate(LONG, max_tokens=64))
        tokens, accepted = guesses(child, number)
        assert tokens == accepted >= 50


def test_a_stranger_of_the_same_vocabulary_is_never_right(tmp_path: Path, plain: Child) -> None:
    import numpy as np
    from safetensors.numpy import load_file, save_file

    weights = load_file(tiny_llama() / "model.safetensors")
    weights["model.embed_tokens.weight"] = np.roll(weights["model.embed_tokens.weight"], 7, axis=0)
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "tokenizer.json").write_bytes((tiny_llama() / "tokenizer.json").read_bytes())
    write_gguf(tmp_path / "stranger.gguf", folder=tmp_path)
    with drafting(draft=str(tmp_path / "stranger.gguf"), slots=1) as child:
        number = child.submit(LONG, max_tokens=32)
        child.wait(number)
        assert told(child.tokens(number)) == told(plain.generate(LONG, max_tokens=32))
        tokens, accepted = guesses(child, number)
        assert tokens > 60
        assert accepted <= tokens * 0.1


def test_the_starter_says_the_same(starter: Child) -> None:
    path = starter_path("starter")
    with Child(path, context=512, slots=1, draft=str(path), draft_tokens=4) as child:
        ids = child.prepare(Prompt(messages=(Message("user", "Say hello to Bob."),))).ids
        number = child.submit(ids, max_tokens=24)
        child.wait(number)
        assert told(child.tokens(number)) == told(starter.generate(ids, max_tokens=24))
        tokens, accepted = guesses(child, number)
        assert accepted >= 0.8 * tokens > 0


def test_an_answer_ends_with_the_same_end_token(drafted: Child, plain: Child) -> None:
    asked: dict[str, Any] = {"max_tokens": 60, "logit_bias": ((EOS_ID, 19.0),)}
    ends = set()
    for place in range(6):
        made = told(drafted.generate(LONG[place * 9 :], **asked))
        assert made == told(plain.generate(LONG[place * 9 :], **asked))
        ends.add((len(made), made[-1][2]))
    assert len({count for count, finish in ends if finish == "stop"}) > 2


SAMPLINGS = {
    "a seed": SamplingParams(temperature=1.0, top_p=0.95, top_k=40, min_p=0.0, seed=11),
    "a hot seed": SamplingParams(temperature=1.5, top_p=1.0, top_k=0, min_p=0.02, seed=3),
    "penalties": SamplingParams(
        temperature=0.0, top_p=1.0, frequency_penalty=0.5, presence_penalty=0.5,
        repetition_penalty=1.1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLINGS)
def test_draws_and_penalties_are_those_without(drafted: Child, plain: Child, name: str) -> None:
    asked: dict[str, Any] = {"max_tokens": 40, "sampling": SAMPLINGS[name]}
    assert told(drafted.generate(LONG, **asked)) == told(plain.generate(LONG, **asked))
    assert told(drafted.generate(LONG, **asked)) != told(drafted.generate(LONG, max_tokens=40))


def test_biases_are_kept_to(drafted: Child, plain: Child) -> None:
    asked: dict[str, Any] = {"max_tokens": 24, "logit_bias": ((500, -100.0), (700, 4.0))}
    assert told(drafted.generate(LONG, **asked)) == told(plain.generate(LONG, **asked))
    forced = drafted.generate(LONG, max_tokens=8, logit_bias=((700, 100.0),))
    assert [out.id for out in forced] == [700] * 8


@pytest.mark.parametrize("seed", [None, 5])
def test_a_grammar_holds(drafted: Child, plain: Child, seed: int | None) -> None:
    sampling = SamplingParams(temperature=0.0 if seed is None else 1.0, top_p=0.9, seed=seed)
    asked: dict[str, Any] = {
        "max_tokens": 400,
        "sampling": sampling,
        "grammar": json_grammar(SCHEMAS["nested"]),
    }
    ids = drafted.ids("def main")
    made = drafted.generate(ids, **asked)
    assert told(made) == told(plain.generate(ids, **asked))
    text = b"".join(out.piece for out in made).decode()
    assert made[-1].finish == "length" or json.loads(text)


@pytest.mark.parametrize("count", [1, 2, 3, 17])
def test_limit_is_exact(drafted: Child, count: int) -> None:
    tokens = drafted.generate(LONG, max_tokens=count)
    assert [out.finish for out in tokens] == [None] * (count - 1) + ["length"]


def test_the_whole_window_can_be_used(plain: Child) -> None:
    wanted = {
        count: told(plain.generate(LONG[: 255 - count], max_tokens=count))
        for count in (2, 6, 25, 26, 27)
    }
    with drafting(context=256, slots=1) as child:
        assert child.ready().context == 255
        for count, answer in wanted.items():
            made = child.generate(LONG[: 255 - count], max_tokens=count)
            assert told(made) == answer
            assert len(made) == count


def test_many_rows_beside_each_other(drafted: Child, plain: Child) -> None:
    prompts = [LONG[place * 7 : 160] for place in range(6)]
    numbers = [drafted.submit(ids, max_tokens=16) for ids in prompts]
    drafted.wait(*numbers)
    for number, ids in zip(numbers, prompts, strict=True):
        answer = [out.id for out in drafted.tokens(number)]
        assert len(answer) == 16
        assert guesses(drafted, number)[0] > 0
        assert_the_models_own(plain, ids, answer)


def test_all_guesses_of_many_slots_fit_one_batch() -> None:
    with drafting(context=256, slots=16, draft=str(tiny_gguf()), draft_tokens=12) as child:
        numbers = [child.submit(LONG[n : n + 40], max_tokens=30) for n in range(16)]
        child.wait(*numbers)
        assert [len(child.tokens(number)) for number in numbers] == [30] * 16
        assert child.of(Fault) == []


def test_cancelled_in_mid_answer_and_in_mid_prompt(drafted: Child, plain: Child) -> None:
    running = drafted.submit(LONG, max_tokens=1000)
    reading = drafted.submit(range(100, 1900), max_tokens=10)
    drafted.read_until(lambda: len(drafted.tokens(running)) >= 8)
    drafted.cancel(running)
    drafted.cancel(reading)
    drafted.wait(running, reading)
    assert len(drafted.tokens(running)) < 1000
    made = drafted.generate(LONG, max_tokens=24)
    assert told(made) == told(plain.generate(LONG, max_tokens=24))
    assert drafted.of(Fault) == []


def test_a_paused_answer_goes_on_after_its_slot_was_used(plain: Child) -> None:
    whole = plain.generate(LONG, max_tokens=300)
    with drafting(context=1024, slots=1) as child:
        got: list[TokenOut] = []
        for part in range(3):
            number = child.submit(LONG, 300, generated=tuple(out.id for out in got))
            child.read_until(lambda n=number: len(child.tokens(n)) >= 4)
            child.send(Cancel(number, hold=True))
            child.wait(number)
            got += child.tokens(number)
            assert len(got) < 300, "it was not paused in time"
            other = child.submit(OTHER[part:], max_tokens=6)
            child.wait(other)
        last = child.submit(LONG, 300, generated=tuple(out.id for out in got))
        child.wait(last)
        assert told(got + child.tokens(last)) == told(whole)
        assert child.started(last)[0] >= len(LONG), "what was put aside came back"
        assert child.of(Fault) == []


def test_states_from_files_and_copies_answer_as_processed_ones(
    tmp_path: Path, plain: Child
) -> None:
    options = {"slot_dir": str(tmp_path), "slot_quiet_s": 0.05}
    branch = (*LONG, 7, 8, 9)
    wanted = {ids: told(plain.generate(ids, max_tokens=12)) for ids in (LONG, OTHER, branch)}
    with drafting(slots=2, options=options) as child:
        child.generate(LONG, max_tokens=12)
        wait_until(lambda: len([*tmp_path.glob("*/*.note")]) == 1)
    with drafting(slots=2, options=options) as child:
        number = child.submit(LONG, max_tokens=12)
        child.wait(number)
        assert (child.started(number), told(child.tokens(number))) == ([299], wanted[LONG])
        for ids in (OTHER, branch, LONG, OTHER, branch):
            assert told(child.generate(ids, max_tokens=12)) == wanted[ids]
        assert child.of(Fault) == []


def test_what_is_lacking_is_told(drafted: Child, plain: Child) -> None:
    with_it, without = drafted.of(Ready)[0], plain.of(Ready)[0]
    assert with_it.lacks == ("logprobs",)
    assert without.lacks == ()
    assert with_it.weights_bytes > 1.9 * without.weights_bytes
    assert with_it.kv_bytes == 2 * without.kv_bytes


def test_drafts_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "words.gguf", sentencepiece=True)
    refused: dict[str, dict[str, Any]] = {
        "its tokenizer is 'llama', the model's is 'gpt2'": {"draft": str(tmp_path / "words.gguf")},
        "its vocabulary has 49152 tokens": {"draft": str(starter_path("starter"))},
        "need a `batch` of 20 at least, not 8": {"options": {"batch": 8}},
    }
    for reason, load in refused.items():
        with drafting(**load) as child:
            fault = child.fault()
        assert fault.code == "draft_refused"
        assert reason in fault.message
