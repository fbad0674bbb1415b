"""Answers that were interrupted and go on: the same tokens, bytes and end as without.

llama.cpp's arithmetic differs with the number of rows in a batch, and with what is in the cache
against what is processed anew. What is promised, and tested here, is for a row that runs alone:
interrupted and resumed on the slot that still holds it, a greedy answer is the uninterrupted one.
"""

import random
import tempfile
from pathlib import Path

import pytest

from opta_lmx.backends.frames import Cancel, Fault, Ready
from opta_lmx.core.types import SamplingParams
from tests.support.constrained import json_grammar
from tests.support.drafts import tiny_draft
from tests.support.gguf_child import GREEDY, Child, assert_the_models_own
from tests.support.tiny import tiny_gguf, write_gguf
from tests.unit.codec.constraints.schemas import SCHEMAS

pytestmark = pytest.mark.engine
SEEDED = SamplingParams(temperature=1.0, top_p=0.95, top_k=40, min_p=0.0, seed=11)
UNSEEDED = SamplingParams(temperature=1.0, top_p=0.95, top_k=40, min_p=0.0)
STORY = "Once upon a time there was a"


def resume(child: Child, ids: tuple[int, ...], whole: list[int], at: int, **submit: object) -> int:
    submit = {"max_tokens": len(whole), **submit}
    return child.submit(ids, generated=tuple(whole[:at]), **submit)  # type: ignore[arg-type]


def test_greedy_answer_interrupted_and_resumed_is_the_uninterrupted_one(starter: Child) -> None:
    ids = starter.ids(STORY)
    whole = starter.generate(ids, max_tokens=40)
    number = starter.submit((*ids, 1), max_tokens=2)
    starter.wait(number)
    first = starter.submit(ids, max_tokens=40)
    starter.read_until(lambda: len(starter.tokens(first)) >= 12)
    starter.send(Cancel(first, hold=True))
    starter.wait(first)
    got = starter.tokens(first)
    assert 12 <= len(got) < 40
    rest = starter.submit(ids, max_tokens=40, generated=tuple(out.id for out in got))
    starter.wait(rest)
    parts = got + starter.tokens(rest)
    assert [(out.id, out.piece) for out in parts] == [(out.id, out.piece) for out in whole]
    assert [out.finish for out in parts] == [None] * 39 + ["length"]
    # All but the last token drawn was held; one more may have been processed.
    assert len(ids) + len(got) - 1 <= starter.started(rest)[0] <= len(ids) + len(got)


@pytest.mark.parametrize("at", [1, 11, 23])
def test_limit_counts_the_whole_answer(starter: Child, at: int) -> None:
    ids = starter.ids(STORY)
    whole = [out.id for out in starter.generate(ids, max_tokens=24)]
    number = resume(starter, ids, whole, at)
    starter.wait(number)
    rest = starter.tokens(number)
    assert [out.id for out in rest] == whole[at:]
    assert rest[-1].finish == "length"


def test_penalties_see_what_was_generated_before(starter: Child) -> None:
    ids = starter.ids(STORY)
    sampling = SamplingParams(temperature=0.0, top_p=1.0, frequency_penalty=0.5,
                              presence_penalty=0.5, repetition_penalty=1.1)  # fmt: skip
    whole = [out.id for out in starter.generate(ids, max_tokens=30, sampling=sampling)]
    number = resume(starter, ids, whole, 15, sampling=sampling)
    starter.wait(number)
    assert [out.id for out in starter.tokens(number)] == whole[15:]
    assert whole != [out.id for out in starter.generate(ids, max_tokens=30)], "they matter"


def test_border_inside_a_character(starter: Child) -> None:
    ids = starter.ids("😀🎉🌟 emoji: 😀🎉🌟 emoji: 😀🎉")
    whole = starter.generate(ids, max_tokens=12)
    text = b"".join(out.piece for out in whole)
    known = [out.id for out in whole]
    inside = 0
    for at in range(1, 12):
        if min(known[:at]) < 0:
            break  # the last tokens of the answer, of which llama.cpp did not say what they are
        number = resume(starter, ids, known, at)
        starter.wait(number)
        rest = starter.tokens(number)
        left = b"".join(out.piece for out in rest)
        assert len(rest) == 12 - at
        if whole[at - 1].piece:
            assert left == b"".join(out.piece for out in whole[at:])
        else:
            inside += 1
            assert text.endswith(left)
            assert 0x80 <= left[0] < 0xC0, "it begins with the rest of a character"
    assert inside, "no border was inside a character"


def test_first_piece_keeps_its_space() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spaces.gguf"
        write_gguf(path, sentencepiece=True)
        with Child(path, context=512, slots=1) as child:
            ids = child.ids("def main")
            whole = child.generate(ids, max_tokens=24)
            spaced = [at for at, out in enumerate(whole) if at and out.piece.startswith(b" ")]
            assert spaced, "no word began with a space"
            for at in (1, 2, *spaced[:3]):
                number = resume(child, ids, [out.id for out in whole], at)
                child.wait(number)
                pieces = [out.piece for out in child.tokens(number)]
                assert pieces == [out.piece for out in whole[at:]]


def test_what_cannot_be_resumed_is_refused(tiny: Child) -> None:
    ids, before = tiny.ids("def main"), len(tiny.of(Fault))
    grammar = json_grammar(SCHEMAS["nested"])
    asked = (
        {"sampling": SEEDED},
        {"grammar": grammar},
        {"max_tokens": 3},
        {"generated": (-1,)},
        {"generated": (4096,)},
    )
    for more in asked:
        number = tiny.submit(ids, **{"max_tokens": 8, "generated": (500, 501, 502), **more})  # type: ignore[arg-type]
        tiny.wait(number)
        assert tiny.tokens(number) == []
    faults = tiny.of(Fault)[before:]
    assert [fault.code for fault in faults] == ["bad_request"] * len(asked)
    assert "seeded" in faults[0].message
    assert "grammar" in faults[1].message
    assert tiny.of(Ready)[0].resumes == "unseeded"


def test_drawn_answers_and_greedy_ones_with_a_seed_go_on(tiny: Child) -> None:
    ids = tiny.ids("def main")
    greedy = SamplingParams(temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, seed=5)
    for sampling in (UNSEEDED, greedy, GREEDY):
        number = tiny.submit(ids, 8, sampling, generated=(500, 501, 502))
        tiny.wait(number)
        assert len(tiny.tokens(number)) == 5


def test_full_window_ends_a_resumed_answer(tiny: Child) -> None:
    ids = (*tiny.ids("import os"), *[40] * 180)
    whole = [out.id for out in tiny.generate(ids, max_tokens=10_000)]
    number = resume(tiny, ids, whole, 20, max_tokens=10_000)
    tiny.wait(number)
    rest = tiny.tokens(number)
    assert [out.id for out in rest] == whole[20:]
    assert rest[-1].finish == "length"


def test_paused_answer_goes_on_after_others_used_every_slot(starter: Child) -> None:
    ids = (*starter.ids(STORY), *range(300, 440))
    whole = starter.generate(ids, max_tokens=30)
    first = starter.submit(ids, max_tokens=30)
    starter.read_until(lambda: len(starter.tokens(first)) >= 10)
    starter.send(Cancel(first, hold=True))
    starter.wait(first)
    got = starter.tokens(first)
    others = [starter.submit(range(1000 * n, 1000 * n + 20), max_tokens=2) for n in range(1, 6)]
    starter.wait(*others)
    rest = starter.submit(ids, max_tokens=30, generated=tuple(out.id for out in got))
    starter.wait(rest)
    assert starter.started(rest)[0] >= len(ids) + len(got) - 1
    assert [out.id for out in got + starter.tokens(rest)] == [out.id for out in whole]
    assert starter.of(Ready)[0].pauses


def test_fourteen_interruptions_in_one_answer() -> None:
    with Child(tiny_gguf(), context=512, slots=1) as child:
        ids = child.ids("import os")
        whole = [out.id for out in child.generate(ids, max_tokens=120)]
        got: list[int] = []
        for part in range(1, 15):
            number = child.submit(ids, 120, generated=tuple(got))
            wanted = part * 8 - len(got)
            child.read_until(lambda n=number, w=wanted: len(child.tokens(n)) >= w)
            child.send(Cancel(number, hold=True))
            child.wait(number)
            got += [out.id for out in child.tokens(number)]
        number = child.submit(ids, 120, generated=tuple(got))
        child.wait(number)
        assert got + [out.id for out in child.tokens(number)] == whole


@pytest.mark.parametrize(
    ("options", "guesses", "many"),
    [({}, 0, 8), ({"kv_bytes": 1}, 0, 8), ({"kv_bytes": 1}, 3, 4)],
    ids=["own caches", "shared cache", "shared cache and a draft model"],
)
def test_pauses_copies_and_tenants_in_a_crowd_give_the_models_own_text(
    options: dict[str, int], guesses: int, many: int
) -> None:
    draft = str(tiny_draft()) if guesses else ""
    draw = random.Random(7)
    tools = tuple(draw.randrange(100, 3900) for _ in range(300))
    prompts = [
        (*tools, *(draw.randrange(100, 3900) for _ in range(draw.randrange(10, 400))))
        for _ in range(many)
    ]
    got: list[list[int]] = [[] for _ in prompts]
    load = {"options": options, "draft": draft, "draft_tokens": guesses}
    with Child(tiny_gguf(), context=1024, slots=3, **load) as child:
        child.ready()
        while unfinished := [at for at, ids in enumerate(got) if len(ids) < 40]:
            crowd = draw.sample(unfinished, min(4, len(unfinished)))
            running = {
                at: child.submit(prompts[at], 40, generated=tuple(got[at]), salt="ab"[at % 2])
                for at in crowd
            }
            watched = draw.choice(crowd)
            more = draw.randrange(1, 41 - len(got[watched]))
            child.read_until(lambda n=running[watched], m=more: len(child.tokens(n)) >= m)
            for number in running.values():
                if draw.random() < 0.8:
                    child.send(Cancel(number, hold=draw.random() < 0.8))
            child.wait(*running.values())
            for at, number in running.items():
                got[at] += [out.id for out in child.tokens(number)]
        assert child.of(Fault) == []
    with Child(tiny_gguf(), context=1024, slots=1) as child:
        child.ready()
        for ids, answer in zip(prompts, got, strict=True):
            assert_the_models_own(child, ids, answer)
