"""The shared engine, on the simulated encoder: answers, refusals, cancels and bounded steps."""

import struct
from typing import Any

from opta_lmx.backends.embedding.engine import READ_CHARS, VectorEngine
from opta_lmx.backends.frames import (
    Announce,
    Cancel,
    Embed,
    Embedded,
    Fault,
    Load,
    ModelKind,
    Released,
    Submit,
    ToFront,
)
from opta_lmx.backends.sim.embedding import DIMENSIONS, open_encoder
from opta_lmx.core.types import SamplingParams


class Bench:
    """An engine with its frames."""

    def __init__(self, kind: ModelKind = "embedding", context: int = 64, **options: Any) -> None:
        self.frames: list[ToFront] = []
        self.engine = VectorEngine(open_encoder)
        spec = Load("m", "sim", kind=kind, context=context, options=options)
        self.ready, _ = self.engine.load(spec, self.frames.append)

    def run(self, *requests: Embed) -> int:
        """Take requests and step until idle; return how many steps it took."""
        for request in requests:
            self.engine.embed(request)
        steps = 0
        while self.engine.busy:
            self.engine.step()
            steps += 1
        return steps

    def of(self, kind: type[Any]) -> list[Any]:
        return [frame for frame in self.frames if isinstance(frame, kind)]


def test_vectors_come_in_the_order_of_the_inputs() -> None:
    bench = Bench()
    bench.run(Embed(1, ("a", "bb", "a" * 40, "c")))
    (answer,) = bench.of(Embedded)
    letters = [
        max(range(DIMENSIONS), key=lambda place: numbers[place])
        for numbers in (struct.unpack(f"<{DIMENSIONS}f", vector) for vector in answer.vectors)
    ]
    assert letters == [0, 1, 0, 2]
    assert answer.tokens == (1, 2, 40, 1)
    assert [type(frame).__name__ for frame in bench.frames[-2:]] == ["Embedded", "Released"]


def test_an_input_beyond_the_window_is_named_before_anything_is_computed() -> None:
    bench = Bench()
    bench.run(Embed(1, ("ok", "x" * 65, "y" * 80)))
    assert bench.of(Embedded) == [Embedded(1, at=1, needs=65)]
    assert bench.of(Announce) == []
    assert bench.of(Released) == [Released(1)]


def test_an_input_of_the_wrong_kind_is_named() -> None:
    bench = Bench()
    bench.run(Embed(1, ("ok", (1, 2, 300))))
    (answer,) = bench.of(Embedded)
    assert (answer.at, answer.needs) == (1, 0)
    assert "0 to 255" in answer.error
    scorer = Bench("rerank")
    scorer.run(Embed(1, ("no pair",)), Embed(2, ((1, 2),), query="no pair either"))
    bench = Bench()
    bench.run(Embed(3, ("a pair",), query="q"))
    refused = [*scorer.of(Embedded), *bench.of(Embedded)]
    assert [(answer.id, answer.at) for answer in refused] == [(1, 0), (2, 0), (3, 0)]
    assert all(answer.error.startswith("this model takes") for answer in refused)


def test_inputs_are_cut_when_asked() -> None:
    bench = Bench()
    bench.run(Embed(1, ("x" * 500,), cut_to=10), Embed(2, ("x" * 500,), cut_to=1000))
    assert {answer.id: answer.tokens for answer in bench.of(Embedded)} == {1: (10,), 2: (64,)}


def test_pairs_are_scored() -> None:
    bench = Bench("rerank")
    bench.run(Embed(1, ("xyz", "cab"), query="abc"))
    (answer,) = bench.of(Embedded)
    assert [struct.unpack("<f", score)[0] for score in answer.vectors] == [0.0, 1.0]
    assert bench.ready.dimensions == 1


def test_a_cancelled_request_ends_between_two_batches() -> None:
    bench = Bench()
    bench.engine.embed(Embed(1, ("a" * 60,) * 500))
    bench.engine.embed(Embed(2, ("b",)))
    bench.engine.step()
    bench.engine.cancel(Cancel(1))
    assert bench.of(Released) == [Released(1)]
    bench.engine.cancel(Cancel(1))
    assert bench.run() <= 2
    assert [answer.id for answer in bench.of(Embedded)] == [2]


def test_no_step_reads_or_encodes_without_bound() -> None:
    bench = Bench(context=1 << 20)
    many = Embed(1, ("y" * 1000,) * 300)
    assert bench.run(many) > 300_000 // READ_CHARS
    assert all(announce.predicted_s > 0 for announce in bench.of(Announce))


def test_a_long_text_is_announced_before_it_is_tokenized() -> None:
    bench = Bench()
    bench.run(Embed(1, ("z" * (READ_CHARS + 1),)))
    assert bench.of(Announce)[0].op == "tokenize"
    assert bench.of(Embedded) == [Embedded(1, at=0, needs=READ_CHARS + 1)]


def test_a_refused_batch_fails_its_requests_and_no_other() -> None:
    bench = Bench(refuse_at_batch=1)
    bench.run(Embed(1, ("a",)), Embed(2, ("b",)))
    assert sorted(fault.id for fault in bench.of(Fault)) == [1, 2]
    bench.run(Embed(3, ("c",)))
    assert [answer.id for answer in bench.of(Embedded)] == [3]
    assert sorted(frame.id for frame in bench.of(Released)) == [1, 2, 3]


def test_text_is_not_generated_here() -> None:
    bench = Bench()
    bench.engine.submit(Submit(1, (1,), SamplingParams(), 5))
    assert [type(frame) for frame in bench.frames] == [Fault, Released]


def test_a_request_of_no_inputs_is_answered() -> None:
    bench = Bench()
    bench.run(Embed(1, ()))
    assert bench.of(Embedded) == [Embedded(1)]
    assert bench.of(Released) == [Released(1)]
