"""`audit` and `audit verify`, and the rows that commands of this machine leave."""

import contextlib
import csv
import io
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from opta_lmx.tenancy.audit_rows import TRIGGERS
from opta_lmx.tenancy.keys import parse
from tests.unit.cli.conftest import Command


def shown(command: Command, *options: str) -> list[dict[str, Any]]:
    return json.loads(command("audit", "--json", *options).stdout)


def tool(home: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(home / "lmx.db", isolation_level=None)) as database:
        for statement in statements:
            database.execute(statement)


def beyond(home: Path) -> None:
    """A home whose server others may reach."""
    text = '[security]\nprofile = "lan"\n'
    (home / "config.toml").write_text(text)


def test_looking_makes_no_database(command: Command, home: Path) -> None:
    assert "Nothing of the kind" in command("audit").stdout
    assert shown(command) == []
    verified = command("audit", "verify")
    assert (verified.exit_code, verified.stdout) == (0, "")
    assert command("audit", "verify", "--expect", f"1:{'0' * 64}").exit_code == 1
    assert list(home.iterdir()) == []


def test_key_commands_leave_rows(command: Command) -> None:
    first = command("keys", "create", "--name", "bot", "--scope", "metrics").stdout.strip()
    command("keys", "list")
    second = command("keys", "rotate", first).stdout.strip()
    assert command("keys", "create", "--name", "bot").exit_code == 1
    command("keys", "revoke", "bot")
    words = "bot ({}) of default, for metrics"
    told = [
        (row["action"], row["outcome"], row["target"], row["code"], row["began"])
        for row in shown(command)
    ]
    assert told == [
        ("keys.create", "begun", "bot", "", None),
        ("keys.create", "ok", words.format(parse(first)), "", 1),
        ("keys.rotate", "begun", f"lmx_{parse(first)}_***", "", None),
        ("keys.rotate", "ok", words.format(parse(second)), "", 3),
        ("keys.create", "begun", "bot", "", None),
        ("keys.create", "failed", "bot", "key_name_taken", 5),
        ("keys.revoke", "begun", "bot", "", None),
        ("keys.revoke", "ok", words.format(parse(second)), "", 7),
    ]
    row = shown(command)[0]
    assert (row["who"], row["tenant"], row["address"]) == ("local", "", f"uid {os.getuid()}")
    assert row["time"].endswith("Z")
    for secret in (first, second):
        assert secret[-20:] not in command("audit").output


def test_rows_are_chosen(command: Command) -> None:
    command("keys", "create", "--name", "bot")
    command("keys", "revoke", "bot")
    assert len(shown(command, "--action", "keys.revoke")) == 2
    assert len(shown(command, "--action", "keys.*")) == 4
    assert len(shown(command, "--who", "local", "--since", "1h")) == 4
    assert shown(command, "--who", "bot") == []
    assert shown(command, "--since", "2999-01-01") == []
    assert len(shown(command, "--since", "2001-01-01T00:00:00+02:00")) == 4
    wrong = command("audit", "--since", "yesterday")
    assert (wrong.exit_code, "since" in wrong.stderr) == (1, True)
    table = command("audit").stdout
    assert "keys.revoke" in table
    assert "local" in table


def test_csv_is_read_back_and_holds_no_formula(command: Command, home: Path) -> None:
    command("keys", "create", "--name", "bot")
    command("keys", "revoke", '=HYPERLINK("x"),\n"')
    read = list(csv.DictReader(io.StringIO(command("audit", "--csv").stdout)))
    assert [row["action"] for row in read] == ["keys.create"] * 2 + ["keys.revoke"] * 2
    assert read[2]["target"] == '\'=HYPERLINK("x"),\\n"'
    assert (read[1]["outcome"], read[1]["began"], read[3]["code"]) == ("ok", "1", "key_not_found")
    assert all(not cell.startswith("=") for row in read for cell in row.values())


def test_verify_finds_what_was_changed_and_what_is_missing(command: Command, home: Path) -> None:
    command("keys", "create", "--name", "bot")
    good = command("audit", "verify")
    assert good.exit_code == 0
    assert "2 rows, 1 to 2" in good.stderr
    head = good.stdout.strip()
    command("keys", "revoke", "bot")
    assert command("audit", "verify", "--expect", head).exit_code == 0
    assert command("audit", "verify", "--expect", "2:" + "0" * 64).exit_code == 1
    assert command("audit", "verify", "--expect", "two").exit_code == 1
    drop = [f"DROP TRIGGER {name}" for name in TRIGGERS]
    tool(home, *drop, "DELETE FROM audit_rows WHERE seq = 4", *TRIGGERS.values())
    bad = command("audit", "verify")
    assert (bad.exit_code, bad.stdout) == (1, "")
    assert "row 4 was written, and the log ends with row 3" in bad.stderr


@pytest.mark.parametrize("others", [False, True], ids=["loopback", "lan"])
def test_what_cannot_be_written_down(command: Command, home: Path, *, others: bool) -> None:
    first = command("keys", "create", "--name", "bot").stdout.strip()
    if others:
        beyond(home)
    tool(home, "ALTER TABLE audit_rows RENAME TO gone")
    made = command("keys", "create", "--name", "new")
    assert made.exit_code == int(others)
    assert bool(parse(made.stdout.strip())) is not others
    rotated = command("keys", "rotate", "bot")
    assert rotated.exit_code == int(others)
    told = rotated.stderr
    assert ("audit_unavailable" in told) is others
    # What only takes away is not held up by a log.
    revoked = command("keys", "revoke", parse(first) or "")
    assert revoked.exit_code == 0
    assert "could not be written into the audit log" in revoked.stderr
