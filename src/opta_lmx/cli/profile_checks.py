"""What `doctor` and `config explain --profile` say of the security profile."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError

from opta_lmx.cli.checks import Check
from opta_lmx.cli.session import Session
from opta_lmx.config.profiles import Rule, rules
from opta_lmx.config.sections.security import ProfileName
from opta_lmx.config.sections.server import is_loopback
from opta_lmx.core.clock import SystemClock
from opta_lmx.security.addresses import Networks, address_of
from opta_lmx.tenancy import key_rows

_BUSY_S = 2.0
_BEHIND_PROXIES = ("trusted-gateway", "internet")
_HERE = (address_of("127.0.0.1"), address_of("::1"))


def stored_keys(home: Path) -> int:
    """How many keys in a home's database open the door now; 0 also where it cannot be read.

    The database is neither made nor migrated: one that never held a key has no table of them.
    """
    file = home / "lmx.db"
    if not file.is_file():
        return 0
    # Opened for writing, though nothing is written: what SQLite puts beside the file to read it
    # is then gone afterwards.
    address = f"file:{quote(str(file))}?mode=rw"
    engine = create_engine(
        "sqlite://", creator=lambda: sqlite3.connect(address, timeout=_BUSY_S, uri=True)
    )
    now_ms = SystemClock().now_ms()
    try:
        with engine.connect() as connection:
            return sum(row.opens(now_ms) for row in key_rows.living(connection, now_ms))
    except SQLAlchemyError:
        return 0
    finally:
        engine.dispose()


def profile_rules(session: Session, name: ProfileName | None = None) -> list[Rule]:
    """The rules of a profile (None: the one in force) beside what is set and stored."""
    return rules(session.settings, stored_keys(session.home), name)


def security(session: Session) -> Iterator[Check]:
    """Whether the profile in force is met; a server that lacks anything does not start."""
    name = session.settings.security.profile
    lacking = [rule for rule in profile_rules(session) if rule.missing is not None]
    for rule in lacking:
        yield Check(f"profile {name}", "broken", f"{rule.name}: {rule.missing}")
    if not lacking:
        yield Check(f"profile {name}", "ok", "all that it asks for holds")
    if name in _BEHIND_PROXIES and _proxy_may_be_here(session):
        text = (
            "a proxy on this machine that sends neither Forwarded nor X-Forwarded-For makes its "
            "callers look like this machine, which no server can tell: see that it sends one"
        )
        yield Check("proxy", "info", text)


def _proxy_may_be_here(session: Session) -> bool:
    trusted = Networks.parse(session.settings.security.trusted_proxies)
    return is_loopback(session.settings.server.host) or any(one in trusted for one in _HERE)
