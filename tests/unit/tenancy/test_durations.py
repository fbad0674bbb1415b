"""Spans and moments: what is read, and that nothing else is."""

import contextlib
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.tenancy.durations import expiry_ms, span_s

NOW = int(datetime(2030, 1, 1, tzinfo=UTC).timestamp() * 1000)
CENTURY_MS = 100 * 365 * 86_400_000


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("0s", 0), ("90s", 90), ("10m", 600), ("12h", 43_200), ("2w", 1_209_600)],
)
def test_spans(text: str, seconds: int) -> None:
    assert span_s(text, "grace") == seconds


@pytest.mark.parametrize("text", ["", "-1d", "1", "1y", "1 d", "1.5h", "1D", "99999999w", "٣d"])
def test_other_spans_are_refused(text: str) -> None:
    with pytest.raises(LmxError) as caught:
        span_s(text, "grace")
    assert (caught.value.kind, caught.value.param) == (ErrorKind.INVALID_REQUEST, "grace")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("30d", datetime(2030, 1, 31, tzinfo=UTC)),
        ("2030-06-01", datetime(2030, 6, 1, tzinfo=UTC)),
        ("2030-06-01T12:30", datetime(2030, 6, 1, 12, 30, tzinfo=UTC)),
        ("2030-06-01T12:30:00Z", datetime(2030, 6, 1, 12, 30, tzinfo=UTC)),
        ("2030-06-01T12:30+02:00", datetime(2030, 6, 1, 10, 30, tzinfo=UTC)),
    ],
)
def test_moments(text: str, moment: datetime) -> None:
    assert expiry_ms(text, NOW) == int(moment.timestamp() * 1000)


def test_never() -> None:
    assert expiry_ms("never", NOW) is None


@pytest.mark.parametrize(
    "text", ["0", "0d", "2030-01-01", "2029-12-31", "1970-01-01", "2131-01-01", "9999-12-31", "x"]
)
def test_what_is_past_far_away_or_no_moment_is_refused(text: str) -> None:
    with pytest.raises(LmxError) as caught:
        expiry_ms(text, NOW)
    assert (caught.value.kind, caught.value.param) == (ErrorKind.INVALID_REQUEST, "expires")


@given(st.text() | st.from_regex(r"[0-9]{1,5}-[0-9]{2}-[0-9]{2}.*|[0-9]{1,12}[smhdw]"))
@example("0001-01-01T00:00+23:59")
@example("9999-12-31T23:59-23:59")
@example("\ud800")
def test_any_text_is_read_or_refused(text: str) -> None:
    found: int | None = None
    with contextlib.suppress(LmxError):
        found = expiry_ms(text, NOW)
    assert found is None or NOW < found <= NOW + CENTURY_MS
