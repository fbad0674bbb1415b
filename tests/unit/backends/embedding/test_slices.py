"""Cutting long texts: nothing lost, nothing too long, words kept whole."""

from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.backends.embedding.slices import SLICE, slices


@given(st.lists(st.tuples(st.text(" \nab", max_size=5), st.integers(0, 20_000)), max_size=12))
def test_the_pieces_are_the_text(parts: list[tuple[str, int]]) -> None:
    text = "".join(unit * count for unit, count in parts)
    pieces = list(slices(text))
    assert "".join(pieces) == text
    assert all(len(piece) <= SLICE for piece in pieces)
    assert all(pieces[:-1])


def test_words_are_kept_whole() -> None:
    text = "word " * 20_000
    pieces = list(slices(text))
    assert len(pieces) == 4
    assert [token for piece in pieces for token in piece.split()] == text.split()
