"""Only an answer's very first token is taken as its beginning, however often it was cut."""

from types import SimpleNamespace
from typing import Any

import pytest

from opta_lmx.backends.frames import Submit, TokenOut
from opta_lmx.backends.mlx.delivery import Delivery
from opta_lmx.backends.mlx.rows import Row
from opta_lmx.core.types import SamplingParams


class Words:
    """A tokenizer whose pieces begin with a blank that an answer does not begin with."""

    def piece(self, token: int) -> bytes:
        return b" %d" % token

    def first_piece(self, token: int) -> bytes:
        return b"%d" % token


@pytest.mark.parametrize(("generated", "text"), [((), b"4 5"), ((3,), b" 4 5")])
def test_first_pieces(generated: tuple[int, ...], text: bytes) -> None:
    row = Row(Submit(1, (9,), SamplingParams(), 9, generated=generated))
    words: Any = Words()
    delivery, out = Delivery(words), list[TokenOut]()
    for token, finish in ((4, None), (5, "length"), (6, "stop")):
        drawn: Any = SimpleNamespace(token=token, finish_reason=finish)
        out += delivery.tokens([(row, drawn)])
    assert b"".join(token.piece for token in out) == text
    assert [token.finish for token in out] == [None, "length", "stop"]
    assert row.answer == [*generated, 4, 5, 6]
