"""Which rows share a batch."""

from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.backends.mlx.buckets import choose, padding
from opta_lmx.core.kv_cost import KvCost

PLAIN = KvCost(((1, 0),)).at
LENGTHS = st.lists(st.integers(1, 40_000), min_size=1, max_size=40)
COSTS = st.sampled_from([PLAIN, KvCost(((3, 0), (5, 64)), fixed=90).at, KvCost((), fixed=7).at])


def place(lengths: list[int], spare: int, at: object = PLAIN) -> list[list[int]]:
    """The batches of rows that come one after another."""
    batches: list[list[int]] = []
    for tokens in lengths:
        index = choose(batches, tokens, at, spare)  # type: ignore[arg-type]
        if index == len(batches):
            batches.append([])
        batches[index].append(tokens)
    return batches


@given(LENGTHS, st.integers(0, 100_000), COSTS)
def test_all_padding_together_keeps_within_what_is_spare(
    lengths: list[int], spare: int, at: object
) -> None:
    batches = place(lengths, spare, at)
    assert sorted(each for batch in batches for each in batch) == sorted(lengths)
    assert sum(padding(batch, at) for batch in batches) <= spare  # type: ignore[arg-type]


@given(LENGTHS)
def test_with_room_enough_there_is_one_batch(lengths: list[int]) -> None:
    assert len(place(lengths, max(lengths) * len(lengths) * 8)) == 1


def test_without_room_only_equals_share() -> None:
    assert place([5, 9, 5, 9, 7], 0) == [[5, 5], [9, 9], [7]]


def test_a_long_row_joins_short_ones_only_while_that_is_cheap() -> None:
    assert place([100] * 7 + [600], 5000) == [[100] * 7 + [600]]
    assert place([100] * 7 + [8000], 5000) == [[100] * 7, [8000]]
    assert place([8000] + [100] * 7, 5000) == [[8000], [100] * 7]


def test_the_fullest_of_like_batches_is_taken_so_that_the_others_end() -> None:
    assert choose([[100], [100, 110, 120]], 130, PLAIN, 5000) == 1
    assert choose([[130], [100, 900]], 130, PLAIN, 50_000) == 1
    assert choose([[130], [100, 900]], 130, PLAIN, 5000) == 0


def test_an_empty_batch_is_used_again() -> None:
    assert choose([[8000], [], [9]], 300, PLAIN, 100) == 1


def test_layers_with_a_window_pad_no_further_than_it() -> None:
    window = KvCost(((1, 64),)).at
    assert padding([100, 8000], window) == 0
    assert padding([10, 8000], window) == 54
