"""Cuts a text or bytes at arbitrary places, and knows texts that provoke parsers."""

import itertools
from typing import TypeVar

from hypothesis import strategies as st

Cuttable = TypeVar("Cuttable", str, bytes)

splits = st.lists(st.integers(min_value=0, max_value=200), max_size=12)
"""Places to cut; those beyond the end are ignored."""


def split_at(whole: Cuttable, cuts: list[int]) -> list[Cuttable]:
    """Return the consecutive parts of `whole` between the cuts."""
    places = sorted({cut for cut in cuts if cut < len(whole)})
    edges = [0, *places, len(whole)]
    return [whole[start:end] for start, end in itertools.pairwise(edges)]


def mixture(*fragments: str) -> st.SearchStrategy[str]:
    """Texts glued together from `fragments`, with a little noise between them."""
    return st.lists(st.sampled_from(fragments) | st.text(max_size=3), max_size=12).map("".join)
