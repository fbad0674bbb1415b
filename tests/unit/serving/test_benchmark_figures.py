"""What the answers of a benchmark come to."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.serving.benchmark_figures import (
    Sample,
    coherence,
    figures,
    garbage,
    percentile,
    repetition_ratio,
    spread,
    total_speed,
)

PLAIN = " ".join(f"word{number}" for number in range(60))
VALUES = st.lists(st.floats(0, 1e6), min_size=1, max_size=40)


def answer(
    text: str = PLAIN, tokens: int = 11, step_s: float = 0.1, began: float = 5.0, first: float = 1.0
) -> Sample:
    stamps = tuple(began + first + step_s * number for number in range(tokens))
    return Sample(began, stamps, text, 0.25, 0.5, prompt_tokens=110, cached_tokens=10)


@given(VALUES, st.floats(0, 1))
def test_percentiles_lie_between_the_values_and_grow(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found is not None
    assert min(values) <= found <= max(values) or found == pytest.approx(min(values))
    assert percentile(values, 0.0) == min(values)
    assert percentile(values, 1.0) == max(values)
    middle = percentile(values, 0.5)
    assert middle == pytest.approx(statistics.median(values))


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=40))
def test_percentiles_are_those_of_the_standard_library(values: list[float]) -> None:
    expected = statistics.quantiles(values, n=20, method="inclusive")[18]
    assert percentile(values, 0.95) == pytest.approx(expected)


def test_nothing_measured_is_said_to_be_nothing() -> None:
    found = figures([[Sample(0.0)]], 200)
    assert found.status == "insufficient_data"
    assert found.ttft_ms == spread([])
    assert (found.ttft_ms.p50, found.tokens_per_s.mean, found.answers) == (None, None, 1)


def test_times_and_speeds_are_what_was_received() -> None:
    found = figures([[answer()], [answer(step_s=0.2)], [answer(step_s=0.1, first=3.0)]], 11)
    assert found.status == "ok"
    assert found.ttft_ms.p50 == 1000
    assert found.ttft_ms.mean == pytest.approx(5000 / 3, abs=0.001)
    # Ten tokens after the first, in one second, two, and one.
    assert found.tokens_per_s.p50 == 10
    assert found.tokens_per_s.mean == pytest.approx(25 / 3, abs=0.001)
    assert found.inter_token_ms.p95 == pytest.approx(200)
    assert found.prompt_tokens_per_s.p50 == 200  # a hundred computed in half a second
    assert (found.output_tokens, found.prompt_tokens, found.cached_tokens) == (11, 110, 10)
    assert found.waited_ms.p50 == 250


def test_answers_side_by_side_count_together() -> None:
    run = [answer(), answer(began=6.0)]
    assert total_speed(run) == pytest.approx(22 / 3)  # from the first asked to the last token
    assert total_speed([Sample(0.0)]) is None


@pytest.mark.parametrize("answers", [1, 2])
def test_too_few_answers_are_no_data(answers: int) -> None:
    assert figures([[answer()]] * answers, 11).status == "insufficient_data"
    assert figures([[answer()]] * 2 + [[answer(tokens=1)]], 11).status == "insufficient_data"


def test_repetition_is_counted_in_groups_of_four_words() -> None:
    assert repetition_ratio(PLAIN) == 0
    assert repetition_ratio("one two three") == 0
    # Seven groups of four, of which only "a a a a" is distinct.
    assert repetition_ratio("a " * 10) == pytest.approx(1 - 1 / 7)
    assert repetition_ratio("a b a b a b") == pytest.approx(1 - 2 / 3)
    # Where no blank divides words, letters count.
    assert repetition_ratio("天地玄黄" * 5) == pytest.approx(1 - 4 / 17)


def test_what_is_no_text() -> None:
    assert garbage("tabs\tand\r\nlines, Grüße, 天地") == 0
    assert garbage("ab\ufffd\x00") == 0.5
    assert garbage("\ue000") == 1
    assert garbage("") == 0


@pytest.mark.parametrize(
    ("text", "tokens", "said"),
    [
        (PLAIN, 60, "ok"),
        (PLAIN, 29, "truncated"),
        ("again and " * 50, 60, "repetitive"),
        ("again and " * 50, 10, "repetitive"),
        (PLAIN + "\ufffd" * 20, 60, "garbled"),
        ("again and " * 50 + "\ufffd" * 20, 60, "garbled"),
        ("", 60, "garbled"),
    ],
)
def test_the_worst_fault_is_the_one_told(text: str, tokens: int, said: str) -> None:
    samples = [answer(text, tokens)] * 3
    assert figures([samples], 60).coherence == said


def test_one_short_answer_of_three_is_no_fault() -> None:
    samples = [answer(tokens=60), answer(tokens=60), answer(tokens=3)]
    assert coherence(samples, 60, 0.0) == "ok"
    assert coherence(samples[1:], 60, 0.0) == "truncated"
