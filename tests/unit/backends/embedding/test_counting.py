"""Counting inputs: the tokens that making their vectors would tell, and nothing besides."""

import pytest

from opta_lmx.backends.embedding.engine import READ_CHARS
from opta_lmx.backends.frames import Announce, Embed, Embedded, Released
from tests.unit.backends.embedding.test_engine import Bench

INPUTS = ("a", "bb", "a" * 40, "\u00e9", (1, 2, 3))


@pytest.mark.parametrize("cut_to", [None, 10, 1000])
def test_a_count_tells_the_tokens_and_makes_nothing(cut_to: int | None) -> None:
    bench = Bench()
    bench.run(Embed(1, INPUTS, cut_to, uncut=1), Embed(2, INPUTS, cut_to, uncut=1, count=True))
    made, counted = sorted(bench.of(Embedded), key=lambda answer: answer.id)
    assert counted.tokens == made.tokens
    assert len(counted.tokens) == len(INPUTS)
    assert counted.vectors == ()
    assert bench.of(Released) == [Released(1)]


def test_only_a_count_computes_nothing() -> None:
    bench = Bench(die_at_batch=1)
    bench.run(Embed(1, INPUTS, count=True))
    assert bench.of(Announce) == []
    assert len(bench.frames) == 1


def test_a_pair_counts_its_query_each_time() -> None:
    bench = Bench("rerank")
    bench.run(Embed(1, ("xyz", "cab"), query="ab", count=True))
    assert bench.of(Embedded) == [Embedded(1, tokens=(5, 5))]


def test_what_could_not_be_made_is_told_as_if_it_were_to_be() -> None:
    bench = Bench()
    requests = [("ok", "x" * 65), ("ok", (1, 300)), ()]
    for number, inputs in enumerate(requests):
        bench.run(Embed(10 + number, inputs), Embed(20 + number, inputs, count=True))
    answers = {answer.id: answer for answer in bench.of(Embedded)}
    for number in range(len(requests)):
        made, counted = answers[10 + number], answers[20 + number]
        assert (made.at, made.needs, made.error) == (counted.at, counted.needs, counted.error)
    assert [one.id for one in bench.of(Released)] == [10, 11, 12]


def test_a_long_count_lets_others_go_on() -> None:
    bench = Bench(context=1 << 20)
    bench.engine.embed(Embed(1, ("y" * 1000,) * 300, count=True))
    bench.engine.embed(Embed(2, ("b",)))
    bench.engine.step()
    bench.engine.step()
    assert [answer.id for answer in bench.of(Embedded)] == [2]
    bench.run()
    (counted,) = [answer for answer in bench.of(Embedded) if answer.id == 1]
    assert sum(counted.tokens) == 300_000 > READ_CHARS
