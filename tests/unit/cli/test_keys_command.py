"""`keys create`, `list`, `rotate`, `revoke`, as a shell and a running server see them."""

import asyncio
import contextlib
import json
import re
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from opta_lmx.core.clock import SystemClock
from opta_lmx.core.principal import Budgets, Lane, Principal, Scope
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.store.database import Database
from opta_lmx.tenancy.key_rows import SCHEMA
from opta_lmx.tenancy.keyring import Keyring
from opta_lmx.tenancy.keys import parse
from tests.unit.cli.conftest import Command


def owner_of(home: Path, secret: str) -> Principal | None:
    """What a server that starts now takes the text for."""
    database = Database(home / "lmx.db", (SCHEMA,), SystemClock(), NullTelemetry())
    owner = Keyring([], database, SystemClock(), required=False).owner(secret)
    asyncio.run(database.close())
    return owner


def listed(command: Command, *options: str) -> list[dict[str, object]]:
    return json.loads(command("keys", "list", "--json", *options).stdout)


def test_the_text_is_alone_on_standard_output(command: Command, home: Path) -> None:
    made = command("keys", "create", "--name", "bot")
    assert made.exit_code == 0
    secret = made.stdout.removesuffix("\n")
    assert made.stdout == secret + "\n"
    key_id = parse(secret)
    assert key_id
    assert key_id in made.stderr
    assert secret not in made.stderr
    assert "asks every caller for a key" in made.stderr
    assert owner_of(home, secret) == Principal(key="bot", scopes=frozenset({Scope.INFERENCE}))
    second = command("keys", "create", "--name", "other")
    assert "asks every caller" not in second.stderr


def test_every_option_reaches_the_key(command: Command, home: Path) -> None:
    made = command(
        *("keys", "create", "--name", "all", "--tenant", "fleet", "--scope", "agents"),
        *("--scope", "metrics", "--lane", "background", "--weight", "2.5", "--max-running", "3"),
        *("--prompt-tokens", "1", "--prompt-tokens-per-minute", "2", "--max-tokens", "4"),
        *("--kv-bytes", "5", "--model", "org/*", "--model", "tiny", "--expires", "30d"),
        *("--note", "for the fleet"),
    )
    assert owner_of(home, made.stdout.strip()) == Principal(
        tenant="fleet",
        key="all",
        lane=Lane.BACKGROUND,
        weight=2.5,
        max_running=3,
        budgets=Budgets(1, 2, 4, 5),
        scopes=frozenset({Scope.AGENTS, Scope.METRICS}),
        models=("org/*", "tiny"),
    )
    (shown,) = listed(command)
    ends = datetime.strptime(str(shown["expires"]), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert 29.99 < (ends - datetime.now(UTC)).total_seconds() / 86_400 <= 30


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--name", "a b"), "name"),
        (("--name", "a", "--scope", "root"), "scope"),
        (("--name", "a", "--lane", "fast"), "lane"),
        (("--name", "a", "--weight", "0"), "weight"),
        (("--name", "a", "--max-running", "0"), "max_running"),
        (("--name", "a", "--expires", "1970-01-01"), "expires"),
        (("--name", "a", "--model", ""), "models"),
    ],
)
def test_what_is_wrong_is_named_and_makes_nothing(
    command: Command, home: Path, options: tuple[str, ...], word: str
) -> None:
    result = command("keys", "create", *options)
    assert (result.exit_code, result.stdout) == (1, "")
    assert word in result.stderr
    assert listed(command) == []
    assert not (home / "keys-required").exists()


def test_looking_makes_no_database(command: Command, home: Path) -> None:
    assert "There is no key" in command("keys", "list").stdout
    assert list(home.iterdir()) == []


def test_the_list_has_states_and_no_hash(command: Command, home: Path) -> None:
    (home / "config.toml").write_text(
        '[server]\napi_keys = ["sk-plain"]\n[[access.keys]]\nname = "named"\nkey = "sk-named"\n'
    )
    secrets = [command("keys", "create", "--name", name).stdout.strip() for name in ("a", "b")]
    command("keys", "rotate", "a", "--grace", "1h")
    command("keys", "revoke", "b")
    found = {(row["name"], row["state"], row["source"]) for row in listed(command)}
    configured = {("key-1", "active", "config"), ("named", "active", "config")}
    assert found == configured | {("a", "grace", "stored"), ("a", "active", "stored")}
    assert {row["state"] for row in listed(command, "--all")} == {"active", "grace", "revoked"}
    with contextlib.closing(sqlite3.connect(home / "lmx.db")) as database, database:
        hashes = [row[0] for row in database.execute("SELECT hash FROM api_keys")]
    for options in ((), ("--all",), ("--json",), ("--all", "--json")):
        shown = command("keys", "list", *options).output
        for hidden in [*hashes, *secrets, "sk-plain", "sk-named"]:
            assert hidden not in shown
            assert hidden[-20:] not in shown or hidden.startswith("sk-")


def test_a_name_of_the_configuration_is_taken(command: Command, home: Path) -> None:
    (home / "config.toml").write_text('server.api_keys = ["sk-plain"]\n')
    result = command("keys", "create", "--name", "key-1")
    assert result.exit_code == 1
    assert "key_name_taken" in result.stderr


def test_rotating_and_revoking(command: Command, home: Path) -> None:
    old = command("keys", "create", "--name", "bot").stdout.strip()
    in_grace = command("keys", "rotate", "bot", "--grace", "1h").stdout.strip()
    assert owner_of(home, old) == owner_of(home, in_grace)
    assert owner_of(home, old)
    at_once = command("keys", "rotate", parse(in_grace) or "").stdout.strip()
    assert re.fullmatch(r"lmx_\w{8}_\w{43}", at_once)
    assert owner_of(home, in_grace) is None
    assert owner_of(home, old), "its own grace goes on"
    ended = command("keys", "revoke", "bot")
    assert (ended.exit_code, ended.stdout) == (0, "")
    assert [owner_of(home, one) for one in (old, in_grace, at_once)] == [None] * 3


def test_an_unknown_key_is_an_error(command: Command) -> None:
    for verb in ("rotate", "revoke"):
        result = command("keys", verb, "nobody")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "key_not_found" in result.stderr


def test_files_are_the_owner_s_alone(command: Command, home: Path) -> None:
    command("keys", "create", "--name", "bot")
    assert {path.stat().st_mode & 0o777 for path in home.iterdir()} == {0o600}


def test_a_damaged_database_is_told(command: Command, home: Path) -> None:
    (home / "lmx.db").write_bytes(b"no database" * 1000)
    result = command("keys", "create", "--name", "bot")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "store_corrupt" in result.stderr


def test_a_server_that_runs_follows(command: Command, home: Path) -> None:
    database = Database(home / "lmx.db", (SCHEMA,), SystemClock(), NullTelemetry())
    ring = Keyring([], database, SystemClock(), required=False)

    def seen(secret: str) -> bool:
        asyncio.run(ring.refresh())
        return ring.owner(secret) is not None

    assert not ring.required
    secret = command("keys", "create", "--name", "bot").stdout.strip()
    assert seen(secret)
    assert ring.required
    command("keys", "revoke", "bot")
    assert not seen(secret)
    asyncio.run(database.close())
