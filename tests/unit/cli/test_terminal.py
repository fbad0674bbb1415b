"""Words for the terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.cli.terminal import describe, printable, size
from opta_lmx.core.errors import ErrorKind, LmxError


@given(st.text())
def test_printable_text_holds_no_control_characters(text: str) -> None:
    shown = printable(text)
    assert all(c in "\n\t" or not (c < " " or "\x7f" <= c <= "\x9f") for c in shown)
    assert printable(shown) == shown


@given(st.text(st.characters(exclude_categories=["Cc"]) | st.sampled_from("\n\t")))
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (98_362_432, "98.4 MB"),
        (25e9, "25.0 GB"),
        (3.2e15, "3200.0 TB"),
    ],
)
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


def test_an_error_in_words() -> None:
    error = LmxError(ErrorKind.RATE_LIMITED, "Full.", code="queue_full", retry_after=2.5)
    assert describe(error) == "Full. [queue_full] (retry after 2.5 s)"
