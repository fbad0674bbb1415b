"""Spans and moments as operators write them: `30d`, `12h`, a date, `never`."""

import re
from datetime import UTC, datetime

from opta_lmx.core.errors import LmxError, invalid

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_SPAN = re.compile(r"([0-9]{1,9})([smhdw])")
_MOST_S = 100 * 365 * 86_400


def span_s(text: str, param: str) -> int:
    """Seconds of `90s`, `10m`, `12h`, `30d`, `2w` or `0`; at most 100 years.

    Raises:
        LmxError: INVALID_REQUEST naming `param`.
    """
    if text == "0":
        return 0
    found = _SPAN.fullmatch(text)
    seconds = int(found[1]) * _UNITS[found[2]] if found else _MOST_S + 1
    if seconds > _MOST_S:
        raise _unreadable(param, "a span like 90s, 10m, 12h, 30d or 2w, up to 100 years")
    return seconds


def expiry_ms(text: str, now_ms: int, param: str = "expires") -> int | None:
    """When something ends, in UTC milliseconds; None for `never`.

    Args:
        text: a span from now, an ISO date (its first moment) or date and time, or `never`;
            without an offset they are UTC.
        now_ms: the present.
        param: the field that said it.

    Raises:
        LmxError: INVALID_REQUEST naming `param`: unreadable, past, or 100 years away.
    """
    if text == "never":
        return None
    if _SPAN.fullmatch(text):
        ends_ms = now_ms + span_s(text, param) * 1000
    else:
        ends_ms = _moment_ms(text, param)
    if not now_ms < ends_ms <= now_ms + _MOST_S * 1000:
        raise invalid(f"'{param}' must be later than now, by 100 years at most.", param=param)
    return ends_ms


def _moment_ms(text: str, param: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _unreadable(param, "'never', a span like 30d, or a date like 2031-05-31") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)


def _unreadable(param: str, wanted: str) -> LmxError:
    return invalid(f"'{param}' must be {wanted}.", param=param)
