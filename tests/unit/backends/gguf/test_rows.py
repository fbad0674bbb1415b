"""Rows of llama.cpp: what is known of their answers."""

from opta_lmx.backends.frames import Submit, TokenOut
from opta_lmx.backends.gguf.rows import Row
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
