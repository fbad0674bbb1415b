"""Masks are the same however they are unpacked, and a row that fails can only end."""

import mlx.core as mx
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.backends.frames import Submit
from opta_lmx.backends.mlx.grammar import Follower
from opta_lmx.backends.mlx.processing import Processor, is_needed, unpack, unpack_on_device
from opta_lmx.core.types import SamplingParams


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5), st.integers(0, 31))
def test_both_ways_of_unpacking_agree(words: list[int], spare: int) -> None:
    bits = np.array(words, dtype=np.uint32)
    size = len(words) * 32 - spare
    expected = [bool(words[at // 32] >> at % 32 & 1) for at in range(size)]
    assert unpack(bits, size).tolist() == expected
    assert unpack_on_device(mx.array(bits), size).tolist() == expected


class _Broken:
    """A matcher that fails at once."""

    def is_stopped(self) -> bool:
        raise RuntimeError("out of fuel")


def test_a_failure_leaves_only_the_tokens_that_end() -> None:
    request = Submit(1, (3,), SamplingParams(temperature=0.0), 9, grammar="start: X")
    processor = Processor(request, 40, Follower(_Broken(), 40, [35]))
    for tokens in ([3], [3, 35]):
        logits = processor(mx.array(tokens), mx.zeros((1, 40)))
        assert [at for at, value in enumerate(logits[0].tolist()) if value == 0] == [35]
    assert processor.failed == "out of fuel"


def test_plain_requests_are_not_touched() -> None:
    assert not is_needed(Submit(1, (3,), SamplingParams(), 9))
    neutral = SamplingParams(frequency_penalty=0.0, presence_penalty=0.0, repetition_penalty=1.0)
    assert not is_needed(Submit(1, (3,), neutral, 9))
    assert is_needed(Submit(1, (3,), SamplingParams(presence_penalty=-0.5), 9))
