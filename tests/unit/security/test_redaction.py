"""No secret is in a log line, whatever way it came there."""

import io
import json
import secrets
import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.observability.telemetry import LogFormat, make_logger
from opta_lmx.security.redaction import MASK, Redactor

SECRET = "Zq8Xw3Vb6Nm1Kj4Hg7Fd0Sa5Po2Iu9Yt6Re3Wq1Lk8J"
KEY = f"lmx_abcd1234_{SECRET}"
KNOWN = 'canary"k\\ey+(.*'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"key {KEY}.", f"key lmx_abcd1234_{MASK}."),
        (f"x{KEY}x", f"xlmx_abcd1234_{MASK}"),
        (KEY[:20], f"lmx_abcd1234_{MASK}"),
        (f"lmx-key.{SECRET}, chat", f"lmx-key.{MASK}, chat"),
        (f"Authorization: Bearer {SECRET}", f"Authorization: Bearer {MASK}"),
        (f"authorization=basic {SECRET}", f"authorization=basic {MASK}"),
        (f"bearer {SECRET} was wrong", f"bearer {MASK} was wrong"),
        (f"X-Api-Key: {SECRET}\nHost: h", f"X-Api-Key: {MASK}\nHost: h"),
        (f'{{"x-api-key": "{SECRET}", "a": 1}}', f'{{"x-api-key": "{MASK}", "a": 1}}'),
        (f"(b'x-api-key', b'{SECRET}')", f"(b'x-api-key', b'{MASK}')"),
        (f"api_key='{SECRET}', n=1", f"api_key='{MASK}', n=1"),
        (f'\\"x_admin_key\\": \\"{SECRET}\\"', f'\\"x_admin_key\\": \\"{MASK}\\"'),
        (f"Cookie: {SECRET}", f"Cookie: {MASK}"),
        (f"/v1?x={KNOWN}&y", f"/v1?x={MASK}&y"),
    ],
)
def test_secrets_are_masked(text: str, expected: str) -> None:
    assert Redactor([KNOWN]).mask(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "opta_lmx_requests_total counted",
        "server.api_keys: 2 keys",
        "the api key is missing",
        "a bearer of news",
        "home /srv/lmx_models",
        "key=bot-7 lane=agent",
        "",
    ],
)
def test_innocent_text_stays(text: str) -> None:
    assert Redactor(["key", ""]).mask(text) == text


@given(st.text(max_size=20), st.text(max_size=20), st.integers(0, 3))
def test_a_key_never_survives(before: str, after: str, cut: int) -> None:
    key = KEY[: len(KEY) - cut]
    assert SECRET[:20] not in Redactor().mask(f"{before}{key}{after}")


def line(log_format: LogFormat, event: str = "said", **fields: object) -> str:
    """One line as the server's logger writes it."""
    stream = io.StringIO()
    make_logger("info", log_format, stream, Redactor([KNOWN])).info(event, **fields)
    return stream.getvalue()


FORMATS = pytest.mark.parametrize("log_format", ["json", "text"])


class Holder:
    def __repr__(self) -> str:
        return f"<{KEY}>"


@FORMATS
@pytest.mark.parametrize(
    "value",
    [KEY, f"Bearer {SECRET}", {"deep": [{"x-api-key": SECRET}]}, (KNOWN, KEY), KEY.encode(),
     Holder(), [("authorization", f"Bearer {SECRET}")], {KEY: 1}],
)  # fmt: skip
def test_no_field_of_a_line_shows_one(log_format: LogFormat, value: object) -> None:
    text = line(log_format, event=f"said {KEY}", field=value, authorization=SECRET)
    assert SECRET not in text
    assert KNOWN not in text
    if log_format == "json":
        assert json.loads(text)["authorization"] == MASK


@FORMATS
def test_nor_does_a_traceback(log_format: LogFormat) -> None:
    with pytest.raises(ValueError) as caught:
        int(f"{KNOWN} and {KEY} and X-Api-Key: {SECRET}")
    text = line(log_format, exc_info=caught.value)
    assert "Traceback" in text
    assert SECRET not in text
    assert KNOWN not in text


@FORMATS
def test_no_value_begins_a_line_or_moves_the_cursor(log_format: LogFormat) -> None:
    hostile = "a\n2026-01-01 [info] forged\x1b[2J\x9b31m\x7f\u2028"
    text = line(log_format, path=hostile)
    assert text.count("\n") == 1
    assert text.removesuffix("\n").isprintable()


FILLERS = ("lmx_", "lmx_abcd1234_", "bearer ", "x-api-key: ", "x-api-key" + " " * 50, '\\"', "=")


@pytest.mark.alone
@pytest.mark.parametrize("filler", FILLERS)
def test_masking_takes_linear_time(filler: str) -> None:
    redactor = Redactor([KNOWN])

    def took_s(size: int) -> float:
        text = (filler * size)[:size]
        began = time.perf_counter()
        redactor.mask(text)
        return time.perf_counter() - began

    # Sixteen times the text: linear is 16, quadratic 256.
    assert took_s(1_600_000) < 64 * max(took_s(100_000), 0.002)


def test_the_test_key_looks_like_a_key() -> None:
    letters = string.ascii_letters + string.digits
    assert len(SECRET) == 43
    drawn = "".join(secrets.choice(letters) for _ in range(43))
    assert drawn not in Redactor().mask(f"lmx_{drawn[:8]}_{drawn}")
