"""Patterns of model names, against Python's own matcher, and in the time they take."""

import fnmatch
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.tenancy.access import allows, matches


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("*", "", True),
        ("*", "org/model", True),
        ("", "", True),
        ("", "a", False),
        ("org/*", "org/model", True),
        ("org/*", "organ/model", False),
        ("*-4bit", "a-4bit", True),
        ("*-4bit", "-4bit-", False),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("ab*ba", "aba", False),
        ("*b*", "abc", True),
        ("a*b*c", "acb", False),
        ("**", "x", True),
        ("a?c", "abc", False),
        ("[ab]", "a", False),
        ("A", "a", False),
    ],
)
def test_patterns(pattern: str, name: str, *, fits: bool) -> None:
    assert matches(pattern, name) is fits


@given(st.text("ab*", max_size=8), st.text("ab", max_size=10))
def test_as_the_library_matches(pattern: str, name: str) -> None:
    assert matches(pattern, name) is fnmatch.fnmatchcase(name, pattern)


@given(st.text("ab*", max_size=6), st.text("ab*", max_size=6), st.text("ab", max_size=8))
def test_an_allowed_pattern_names_nothing_else(wide: str, narrow: str, name: str) -> None:
    if allows((wide,), narrow) and matches(narrow, name):
        assert matches(wide, name)


def test_no_patterns_are_no_bound_and_an_empty_list_is_nothing() -> None:
    assert allows(None, "any")
    assert not allows((), "any")
    assert allows(("a", "b*"), "bc")
    assert not allows(("a", "b*"), "cb")


def test_no_pattern_takes_long() -> None:
    began = time.perf_counter()
    assert not matches("*a" * 250 + "*b*c", "a" * 100_000 + "b")
    assert time.perf_counter() - began < 0.5
