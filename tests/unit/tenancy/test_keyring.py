"""The ring of keys: who is let in, how long, and that it fails shut."""

import asyncio
import contextlib
import hmac
import sqlite3
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.core.principal import Budgets, Lane, Principal, Scope
from opta_lmx.store.engine import READERS
from opta_lmx.tenancy import keyring as module
from opta_lmx.tenancy.key_rows import Found
from opta_lmx.tenancy.keyring import STALE_S, Keyring
from opta_lmx.tenancy.keys import mint
from tests.support.asynchronous import in_loop
from tests.support.clocks import HandClock
from tests.unit.tenancy.conftest import Home, bot

FIXED = [("sk-first", Principal(key="key-1")), ("sk-second", Principal(key="second"))]


def test_keys_of_the_configuration_need_no_database() -> None:
    ring = Keyring(FIXED, None, HandClock(), required=False)
    assert ring.owner("sk-second") is FIXED[1][1]
    assert [ring.owner(text) for text in ("", "sk-third", "sk-firs", "sk-first ")] == [None] * 4
    assert ring.required
    assert [(one.owner.key, one.source, one.id) for one in ring.principals()] == [
        ("key-1", "config", None),
        ("second", "config", None),
    ]


def test_without_keys_none_is_required_unless_told() -> None:
    assert not Keyring([], None, HandClock(), required=False).required
    told = Keyring([], None, HandClock(), required=True)
    assert told.required
    assert told.owner("") is None


@given(st.text())
def test_no_other_text_opens_the_door(text: str) -> None:
    ring = Keyring(FIXED, None, HandClock(), required=False)
    assert ring.owner(text) is None or text in dict(FIXED)


def test_every_key_of_the_configuration_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []
    compare = hmac.compare_digest

    def counting(one: bytes, other: bytes) -> bool:
        compared.append(other)
        return compare(one, other)

    ring = Keyring(FIXED, None, HandClock(), required=False)
    monkeypatch.setattr(module.hmac, "compare_digest", counting)
    counts: list[int] = []
    for shown in ("sk-first", "sk-second", "sk-none"):
        compared.clear()
        ring.owner(shown)
        counts.append(len([one for one in compared if one != module._NOBODY]))
    assert counts == [2, 2, 2]


@in_loop
async def test_a_stored_key_has_all_that_it_was_made_with(home: Home) -> None:
    owner = bot(
        "all",
        tenant="fleet",
        lane=Lane.BACKGROUND,
        weight=2.5,
        max_running=3,
        budgets=Budgets(1, 2, 3, 4),
        scopes=frozenset({Scope.AGENTS, Scope.METRICS}),
        models=("org/*", "tiny"),
    )
    ring = home.ring()
    issued = await home.book().create(owner, expires="1h", note="a note", maker=None)
    assert ring.owner(issued.secret) is None, "not looked yet"
    await ring.refresh()
    assert ring.owner(issued.secret) == owner
    assert ring.owner(issued.secret[:-1] + "-") is None
    (seen,) = ring.principals()
    assert (seen.id, seen.source, seen.state, seen.note) == (
        issued.row.id,
        "stored",
        "active",
        "a note",
    )
    assert seen.expires_ms == home.clock.now_ms() + 3_600_000


@in_loop
async def test_another_secret_under_a_known_id_opens_nothing(home: Home) -> None:
    issued = await home.book().create(bot(), maker=None)
    ring = home.ring()
    other = mint().secret
    forged = issued.secret[: -len("_") - 43] + other[-44:]
    assert forged.startswith(f"lmx_{issued.row.id}_")
    assert forged != issued.secret
    assert ring.owner(forged) is None
    assert ring.owner(issued.secret) == issued.row.owner


@in_loop
async def test_a_key_ends_by_the_clock_without_a_look(home: Home) -> None:
    issued = await home.book().create(bot(), expires="10s", maker=None)
    ring = home.ring()
    home.clock.now += 9.999
    assert ring.owner(issued.secret)
    assert ring.stored == 1
    home.clock.now += 0.001
    assert ring.owner(issued.secret) is None
    assert ring.stored == 0
    assert [one.state for one in ring.principals()] == ["expired"]
    assert ring.required


@in_loop
async def test_both_texts_work_in_grace_and_then_the_new_one_only(home: Home) -> None:
    database = home.database()
    book, ring = home.book(database), home.ring(database)
    old = await book.create(bot(), maker=None)
    new = await book.rotate(old.row.id, grace="10s", maker=None)
    await ring.refresh()
    assert ring.owner(old.secret) == ring.owner(new.secret) == bot()
    assert [one.state for one in ring.principals()] == ["grace", "active"]
    home.clock.now += 10
    assert ring.owner(old.secret) is None
    assert ring.owner(new.secret) == bot()
    assert [one.state for one in ring.principals()] == ["active"]


@in_loop
async def test_revoking_the_last_key_opens_nothing(home: Home) -> None:
    ring, book = home.ring(), home.book()
    assert not ring.required
    issued = await book.create(bot(), maker=None)
    await ring.refresh()
    assert ring.required
    await book.revoke(issued.row.id)
    await ring.refresh()
    assert ring.owner(issued.secret) is None
    assert ring.principals() == []
    assert ring.required
    assert home.ring().required, "nor after a new start"


@in_loop
async def test_what_other_processes_change_is_seen_and_nothing_else_read(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring, book = home.ring(), home.book()
    reads: list[int] = []
    living = module.key_rows.living

    def counting(connection: object, now_ms: int) -> object:
        reads.append(now_ms)
        return living(connection, now_ms)  # type: ignore[arg-type]

    monkeypatch.setattr(module.key_rows, "living", counting)
    await ring.refresh()
    await ring.refresh()
    assert reads == []
    issued = await book.create(bot(), maker=None)
    await ring.refresh()
    await ring.refresh()
    assert len(reads) == 1
    assert ring.owner(issued.secret)


@in_loop
async def test_while_nothing_can_be_read_stored_keys_soon_let_nobody_in(home: Home) -> None:
    issued = await home.book().create(bot(), maker=None)
    database = home.database()
    ring = home.ring(database, FIXED)
    engine = database._engine
    assert engine is not None
    with contextlib.closing(sqlite3.connect(home.path / "lmx.db")) as spoiler, spoiler:
        spoiler.execute("ALTER TABLE api_key_changes RENAME TO away")
    home.clock.now += STALE_S
    await ring.refresh()
    assert ring.owner(issued.secret), "a moment's trouble is no reason"
    home.clock.now += 0.01
    await ring.refresh()
    assert ring.owner(issued.secret) is None
    assert ring.owner("sk-first")
    assert ring.required
    with contextlib.closing(sqlite3.connect(home.path / "lmx.db")) as mender, mender:
        mender.execute("ALTER TABLE away RENAME TO api_key_changes")
    await ring.refresh()
    assert ring.owner(issued.secret), "and it comes back by itself"


@pytest.mark.parametrize("damage", ["garbage", "lost", "newer", "folder"])
@in_loop
async def test_a_lost_database_keeps_the_door_shut(home: Home, damage: str) -> None:
    made = home.database()
    issued = await home.book(made).create(bot(), maker=None)
    await made.close()
    spoil(home.path / "lmx.db", damage)
    ring = home.ring(None, FIXED)
    assert ring.owner(issued.secret) is None
    assert ring.owner("sk-first")
    bare = home.ring(None)
    await bare.refresh()
    assert bare.required
    assert bare.owner(issued.secret) is None
    assert bare.stored == 0


def spoil(path: Path, damage: str) -> None:
    if damage == "newer":
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            database.execute("INSERT INTO lmx_migrations VALUES ('tenancy', 99, 0)")
        return
    path.unlink()
    if damage == "garbage":
        path.write_bytes(b"no database" * 1000)
    elif damage == "folder":
        path.mkdir()


@in_loop
async def test_a_damaged_database_of_a_home_without_keys_asks_for_none(home: Home) -> None:
    (home.path / "lmx.db").write_bytes(b"no database" * 1000)
    ring = home.ring()
    await ring.refresh()
    assert not ring.required
    assert home.ring(required=True).required


@in_loop
async def test_the_marker_comes_back(home: Home) -> None:
    await home.book().create(bot(), maker=None)
    marker = home.path / "keys-required"
    assert marker.stat().st_mode & 0o777 == 0o600
    marker.unlink()
    assert home.ring().required
    assert marker.exists()


@pytest.mark.parametrize(
    "change",
    [
        "lane = 'first'",
        "weight = 'heavy'",
        "models = '{'",
        "models = '3'",
        "hash = 7",
        "scopes = 3",
        "max_running = 'x'",
    ],
)
@in_loop
async def test_a_row_that_was_tampered_with_lets_nobody_in(home: Home, change: str) -> None:
    book = home.book()
    spoilt, sound = [await book.create(bot(name), maker=None) for name in ("spoilt", "sound")]
    with contextlib.closing(sqlite3.connect(home.path / "lmx.db")) as database, database:
        database.execute(f"UPDATE api_keys SET {change} WHERE name = 'spoilt'")
    ring = home.ring()
    assert ring.owner(spoilt.secret) is None
    assert ring.owner(sound.secret) == sound.row.owner


@in_loop
async def test_a_hash_that_is_none_fits_nothing(home: Home) -> None:
    issued = await home.book().create(bot(), maker=None)
    with contextlib.closing(sqlite3.connect(home.path / "lmx.db")) as database, database:
        database.execute("UPDATE api_keys SET hash = 'ä'")
    assert home.ring().owner(issued.secret) is None


@in_loop
async def test_a_scope_of_a_later_version_is_left_out(home: Home) -> None:
    issued = await home.book().create(bot(), maker=None)
    with contextlib.closing(sqlite3.connect(home.path / "lmx.db")) as database, database:
        database.execute("UPDATE api_keys SET scopes = 'inference telepathy'")
    owner = home.ring().owner(issued.secret)
    assert owner
    assert owner.scopes == {Scope.INFERENCE}


@in_loop
async def test_a_look_that_hangs_soon_lets_nobody_in(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued = await home.book().create(bot(), maker=None)
    database = home.database()
    ring = home.ring(database, FIXED)
    home.clock.now += 2 * STALE_S
    assert ring.owner(issued.secret), "nobody looks yet"
    await ring.refresh()
    release = threading.Event()
    busy = [asyncio.ensure_future(database.read(lambda _: release.wait())) for _ in range(READERS)]
    await asyncio.sleep(0)
    monkeypatch.setattr(module, "LOOK_S", 0.02)
    await ring.refresh()
    home.clock.now += STALE_S
    assert ring.owner(issued.secret)
    home.clock.now += 0.01
    assert ring.owner(issued.secret) is None, "without waiting for the look to end"
    assert ring.stored == 0
    assert ring.owner("sk-first")
    release.set()
    await asyncio.gather(*busy)
    monkeypatch.undo()
    await ring.refresh()
    assert ring.owner(issued.secret)


@in_loop
async def test_what_was_revoked_here_is_over_before_the_next_look(home: Home) -> None:
    book, ring = home.book(), home.ring()
    old = await book.create(bot(), maker=None)
    new = await book.rotate(old.row.id, grace="1h", maker=None)
    other = await book.create(bot("other"), maker=None)
    await ring.refresh()
    before = await home.database().read(ring._changed())
    ring.forget(await book.revoke("bot", named=True))
    assert [ring.owner(one.secret) for one in (old, new)] == [None, None]
    assert ring.owner(other.secret)
    ring._number = None
    ring._take(before or Found(0, (new.row, other.row)))
    assert ring.owner(new.secret) is None, "nor does a look that began earlier bring it back"
    assert ring.owner(other.secret)
