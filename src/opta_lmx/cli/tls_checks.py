"""What `doctor` says of certificates: whether they are sound, and when they end."""

import stat
from collections.abc import Iterator

from opta_lmx.cli.checks import Check
from opta_lmx.cli.session import Session
from opta_lmx.core.clock import SystemClock
from opta_lmx.core.errors import LmxError
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.server import open_encryption

_SOON_DAYS = 14.0
_DAY_S = 86_400.0
_STEPS = {
    "server": "make a new one, with `opta-lmx tls renew` where it was made here",
    "client_ca": "have certificates vouched for by a new one, and add that to tls.client_ca",
}


def certificates(session: Session) -> Iterator[Check]:
    """The certificates that the server would use; nothing where it would not encrypt."""
    asked = session.settings.tls
    if asked.key is None:
        return
    try:
        ends = open_encryption(asked, session.home, NullTelemetry()).ends()
    except LmxError as error:
        yield Check("tls", "broken", f"{error.message.rstrip('.')}: correct it there")
        return
    for name, ends_s in ends.items():
        yield _end(name, ends_s)
    key = asked.file(asked.key, session.home)
    if stat.S_IMODE(key.stat().st_mode) & 0o077:
        yield Check("tls key", "warning", f"others may read {key}: chmod 600 {key}")


def _end(name: str, ends_s: float) -> Check:
    days = (ends_s - SystemClock().now_ms() / 1000) / _DAY_S
    subject = f"tls {name}"
    if days <= 0:
        return Check(subject, "broken", f"ended {-days:.1f} days ago: {_STEPS[name]}")
    if days < _SOON_DAYS:
        return Check(subject, "warning", f"ends in {days:.1f} days: {_STEPS[name]}")
    return Check(subject, "ok", f"counts for {days:.0f} more days")
