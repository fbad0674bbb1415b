"""Rows of llama.cpp: what is known of their answers."""

from opta_lmx.backends.frames import Started, Submit, TokenOut
from opta_lmx.backends.gguf.completion import Progress
from opta_lmx.backends.gguf.rows import Harvest, Row, Rows
from opta_lmx.backends.gguf.slots import Before, Start
from opta_lmx.core.types import SamplingParams


def test_an_answer_with_a_token_nobody_named_cannot_be_given_back() -> None:
    request = Submit(1, (1, 2), SamplingParams(), 10)
    row = Row(Start(request, slot=0, cached=0, fresh=True, before=Before()))
    assert row.resumable
    row.take(TokenOut(1, 5, b"a"))
    assert row.resumable
    row.take(TokenOut(1, -1, b"b"))
    row.take(TokenOut(1, 6, b"c"))
    assert not row.resumable


def test_an_interrupted_row_uses_what_it_processed_and_calls_it_so() -> None:
    request = Submit(1, (1, 2, 3, 4), SamplingParams(), 10)
    for done, reuse in ((0, False), (2, True)):
        row = Row(Start(request, slot=0, cached=0, fresh=True, before=Before()))
        row.progress(done)
        row.interrupt()
        row.resume()
        assert (row.interrupted, row.reuse) == (False, reuse)
    row = Row(Start(request, slot=0, cached=1, fresh=False, before=Before()))
    row.interrupt()
    row.resume()
    harvest = Harvest()
    harvest.progress(row, Progress(1, cached=3, done=3, total=4, ms=1.0))
    assert harvest.step(1, 1.0, Rows(lambda _: None), 1).started == (Started(1, 1),)
