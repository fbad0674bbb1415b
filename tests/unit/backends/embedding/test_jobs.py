"""Which inputs make a batch: all once, none endlessly late, never more than the budget."""

from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.backends.embedding.encoder import Encoded
from opta_lmx.backends.embedding.jobs import MAX_ROWS, Job, Jobs
from opta_lmx.backends.frames import Embed


def read(jobs: Jobs, request: int, lengths: list[int]) -> Job:
    """A request whose inputs have these many tokens, all read."""
    job = jobs.add(Embed(request, tuple("x" * length for length in lengths)))
    for length in lengths:
        job.took(Encoded(length))
    return job


@given(
    st.lists(st.lists(st.integers(1, 200), min_size=1, max_size=40), min_size=1, max_size=6),
    st.integers(1, 600),
)
def test_every_input_is_encoded_once_within_the_budget(
    requests: list[list[int]], budget: int
) -> None:
    jobs = Jobs()
    for number, lengths in enumerate(requests):
        read(jobs, number, lengths)
    seen: list[tuple[int, int]] = []
    while rows := jobs.batch(budget):
        longest = max(row.encoded.tokens for row in rows)
        assert len(rows) == 1 or len(rows) * longest <= budget
        assert len(rows) <= MAX_ROWS
        for row in rows:
            assert row.encoded.tokens == requests[row.job.request.id][row.place]
            seen.append((row.job.request.id, row.place))
    wanted = [(n, place) for n, lengths in enumerate(requests) for place in range(len(lengths))]
    assert sorted(seen) == wanted


def test_a_small_request_waits_for_one_batch_of_a_large_one() -> None:
    jobs = Jobs()
    read(jobs, 1, [100] * 1000)
    assert {row.job.request.id for row in jobs.batch(400)} == {1}
    read(jobs, 2, [3])
    read(jobs, 3, [3])
    order = [row.job.request.id for _ in range(3) for row in jobs.batch(400)]
    assert {2, 3} <= set(order)
    assert order.index(2) <= 4
    assert order.index(3) <= 5


def test_short_requests_share_a_batch() -> None:
    jobs = Jobs()
    for number in range(20):
        read(jobs, number, [7])
    assert len(jobs.batch(512)) == 20


def test_a_batch_takes_inputs_of_like_length() -> None:
    jobs = Jobs()
    read(jobs, 1, [1, 100, 2, 99, 3, 98])
    lengths = [[row.encoded.tokens for row in jobs.batch(300)] for _ in range(2)]
    assert lengths == [[100, 99, 98], [3, 2, 1]]


def test_what_is_still_being_read_is_not_encoded() -> None:
    jobs = Jobs()
    job = jobs.add(Embed(1, ("a", "b")))
    job.took(Encoded(1))
    assert jobs.batch(100) == []
    job.took(Encoded(1))
    assert len(jobs.batch(100)) == 2
    assert jobs.batch(100) == []


def test_a_dropped_request_is_gone() -> None:
    jobs = Jobs()
    read(jobs, 1, [5, 5])
    assert jobs.drop(1) is not None
    assert jobs.drop(1) is None
    assert len(jobs) == 0
    assert jobs.batch(100) == []
