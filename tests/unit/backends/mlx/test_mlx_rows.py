"""A request's way through the generator, and its own functions kept from harming others."""

from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.backends.frames import Keep, Reuse, Submit
from opta_lmx.backends.mlx.rows import Row, guarded
from opta_lmx.core.types import SamplingParams


def row(length: int, keeps: list[int] | None = None, generated: int = 0) -> Row:
    keep = tuple(Keep(at + 1, tokens) for at, tokens in enumerate(keeps or []))
    ids, answer = tuple(range(length)), tuple(range(900, 900 + generated))
    return Row(Submit(1, ids, SamplingParams(), 99, generated=answer, keep=keep, keep_end=50))


@given(
    st.integers(1, 60),
    st.lists(st.integers(1, 80), unique=True, max_size=6),
    st.integers(0, 20),
    st.integers(0, 80),
    st.integers(1, 25),
)
def test_every_checkpoint_is_met_whatever_the_chunks(
    length: int, keeps: list[int], generated: int, cached: int, size: int
) -> None:
    one = row(length, keeps, generated)
    ids = one.ids
    cached = min(cached, len(ids) - 1)
    missed = one.start(cached, len(ids))
    assert [keep.tokens for keep in missed] == sorted(k for k in keeps if k <= cached)
    segments = one.segments(ids)
    assert [token for part in segments for token in part] == list(ids[cached:])
    assert all(segments)
    met: list[int] = []
    while one.left:
        taken = one.next_chunk(size)
        assert 0 < taken <= min(size, one.left)
        one.done += taken
        met += [keep.tokens for keep in one.due()]
    one.done = one.total
    met += [keep.tokens for keep in one.due()]
    assert met == sorted(k for k in keeps if cached < k <= len(ids))
    beyond = [keep for keep in one.keeps if keep.tokens > len(ids)]
    assert one.handles == [keep.handle for keep in beyond] + [50]


def test_doubts_end_with_two_tokens_and_sources_grow() -> None:
    one = row(5, [2])
    one.doubts = 2
    assert one.on_trial
    one.start(0, 5)
    one.delivered(7)
    assert one.on_trial
    one.delivered(8)
    assert (one.doubts, one.answer) == (0, [7, 8])
    one.kept(Keep(1, 2))
    assert one.sources == [Reuse(1, 2)]


def test_what_a_row_calls_fails_once_and_is_not_called_again() -> None:
    one, calls = row(3), list[int]()

    def call(value: int) -> int:
        calls.append(value)
        if value == 2:
            raise ValueError
        return value

    guard = guarded(one, call, lambda value: -value)
    assert [guard(1), guard(2), guard(3)] == [1, -2, -3]
    assert calls == [1, 2]
    assert one.failure == "ValueError"
