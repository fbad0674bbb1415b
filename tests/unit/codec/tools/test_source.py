"""Marks at the end of what has arrived."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.codec.tools.source import Source, marks_of


@pytest.mark.parametrize(
    ("marks", "text", "cut"),
    [
        (("<call>",), "a <cal", 4),
        (("<call>",), "a <call>", 0),
        (("<call>", "<|x|>"), "<", 1),
        ((">>>",), "a>>>", 0),
        ((">>>",), "a>>>>", 1),
        ((), "abc", 0),
    ],
)
def test_what_may_be_the_start_of_a_mark_waits(marks: tuple[str, ...], text: str, cut: int) -> None:
    assert marks_of(*marks).cut(text, 0) == cut


@given(st.text(alphabet="ab", max_size=12), st.integers(0, 12), st.integers(0, 12))
def test_a_place_can_be_returned_to(text: str, first: int, second: int) -> None:
    """Whether what was consumed is still there or not."""
    source = Source()
    source.add(text[:first])
    taken = source.take(len(source.text))
    source.add(text[first : first + second])
    taken += source.take(len(source.text) // 2)
    now = len(taken)
    for place in range(now, -1, -1):
        source.back(place, taken[place:now])
        assert source.text[source.at :] == text[place : first + second]
        now = place
