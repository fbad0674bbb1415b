"""Stop strings across token borders, against a naive search of the whole text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.codec.stops import StopMatcher
from tests.unit.codec.splitting import split_at, splits

small = st.text(alphabet="ab[", max_size=60)
stop_lists = st.lists(st.text(alphabet="ab[", min_size=1, max_size=5), min_size=1, max_size=4)


def naive(text: str, stops: list[str]) -> tuple[str, bool]:
    """The documented rule, said plainly: first end wins, then the longest."""
    for end in range(1, len(text) + 1):
        lengths = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if lengths:
            return text[: end - max(lengths)], True
    return text, False


def run(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    matcher = StopMatcher(stops)
    shown = ""
    for piece in pieces:
        text, matched = matcher.feed(piece)
        shown += text
        if matched:
            return shown, True
    return shown + matcher.flush(), False


@given(small, stop_lists, splits)
def test_any_split_agrees_with_the_naive_search(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    assert run(split_at(text, cuts), stops) == naive(text, stops)


@given(small, stop_lists, splits)
def test_only_the_longest_partial_match_is_held(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    matcher = StopMatcher(stops)
    fed = shown = ""
    for piece in split_at(text, cuts):
        out, matched = matcher.feed(piece)
        if matched:
            return
        fed, shown = fed + piece, shown + out
        prefixes = (stop[:size] for stop in stops for size in range(len(stop)))
        held = max(len(prefix) for prefix in prefixes if fed.endswith(prefix))
        assert len(fed) - len(shown) == held


@pytest.mark.parametrize(
    ("text", "stops", "shown"),
    [
        ("one\n\nUser: two", ["\n\nUser:"], "one"),
        ("a]b^c-d\\e", ["^c"], "a]b"),
        ("xabcd", ["bcd", "bc"], "xa"),
        ("xabc", ["bc", "abc"], "x"),
        ("naïve 終 fin", ["終"], "naïve "),
    ],
)
def test_examples(text: str, stops: list[str], shown: str) -> None:
    assert run(list(text), stops) == (shown, True)


def test_held_text_is_given_back_when_it_was_no_stop() -> None:
    matcher = StopMatcher(["###"])
    assert matcher.feed("a##") == ("a", False)
    assert matcher.feed("b") == ("##b", False)
    assert matcher.feed("#") == ("", False)
    assert matcher.flush() == "#"
