"""Arithmetic on the bytes of vectors."""

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.serving.vectors import cosines, numbers, shortened

FLOATS = st.floats(-100, 100, width=32)


def packed(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


@given(st.lists(FLOATS, min_size=3, max_size=20), st.integers(1, 3))
def test_a_shortened_vector_has_length_one_and_the_same_direction(
    values: list[float], width: int
) -> None:
    made = numbers(shortened(packed(*values), width))
    kept = values[:width]
    length = math.sqrt(sum(value * value for value in kept))
    assert len(made) == width
    if length > 1e-6:
        assert math.sqrt(sum(value * value for value in made)) == pytest.approx(1, abs=1e-5)
        assert made == pytest.approx([value / length for value in kept], abs=1e-5)


def test_cosines() -> None:
    query = packed(1, 0)
    documents = [packed(5, 0), packed(0, 2), packed(-3, 0), packed(1, 1), packed(0, 0)]
    assert cosines(query, documents) == pytest.approx([1, 0, -1, math.sqrt(0.5), 0])


@given(st.lists(FLOATS, min_size=4, max_size=4))
def test_cosines_stay_within_their_bounds(values: list[float]) -> None:
    vector = packed(*values)
    (same,) = cosines(vector, [vector])
    assert -1 <= same <= 1
    if any(abs(value) > 1e-3 for value in values):
        assert same == pytest.approx(1)
