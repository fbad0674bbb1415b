"""Every command that there is: it leaves rows in the audit log, or it is said here why not."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from opta_lmx.cli.main import app
from tests.unit.cli.conftest import Command
from tests.unit.cli.test_audit_command import shown

DOCUMENT = Path(__file__).parents[3] / "docs" / "security" / "audit.md"
AUDITED: dict[str, tuple[str, ...]] = {
    "keys create": ("--name", "second"),
    "keys rotate": ("first",),
    "keys revoke": ("first",),
    "quotas set": ("--key", "first", "--requests-per-day", "5"),
    "quotas clear": ("--key", "first"),
    "tls init": ("--force",),
    "tls issue": ("second", "--tenant", "t1"),
    "tls renew": ("first",),
}
"""With what each is called once a key and a client are there, both called `first`."""
ASKING = frozenset({"load", "unload", "reset", "bench", "chat"})
"""They ask a server, which writes down what they ask it."""
READING = frozenset(
    {
        "audit",
        "audit verify",
        "config explain",
        "config path",
        "doctor",
        "fit",
        "keys list",
        "models",
        "ps",
        "quotas list",
        "tls list",
        "usage",
    }
)
EXEMPT = frozenset({"add", "openclaw config", "pull", "quantize", "rm", "serve"})
"""The acts of an account that owns these files; the document names each."""


def commands(found: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """The words of each command below one."""
    below = getattr(found, "commands", None)
    if below is None or getattr(found, "invoke_without_command", False):
        yield " ".join(path)
    for name, inner in (below or {}).items():
        yield from commands(inner, (*path, name))


def test_every_command_is_told_of() -> None:
    told = [*AUDITED, *ASKING, *READING, *EXEMPT]
    assert sorted(told) == sorted(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("words", AUDITED)
def test_what_changes_something_leaves_a_row_before_and_one_after(
    command: Command, words: str
) -> None:
    for first in (
        ("keys", "create", "--name", "first"),
        ("tls", "init"),
        ("tls", "issue", "first", "--tenant", "t1"),
        ("quotas", "set", "--key", "first", "--requests-per-day", "9"),
    ):
        assert command(*first).exit_code == 0
    before = len(shown(command))
    done = command(*words.split(), *AUDITED[words])
    assert done.exit_code == 0, done.output
    begun, ended = shown(command)[before:]
    group, verb = words.split()
    assert begun["action"].startswith(f"{group}.{verb}")
    assert (begun["outcome"], ended["outcome"], ended["began"]) == ("begun", "ok", begun["seq"])
    assert (begun["who"], begun["action"]) == ("local", ended["action"])
    named = "second" if "second" in " ".join(AUDITED[words]) else "first"
    assert named in ended["target"] or words == "tls init"


def test_a_certificate_that_is_not_made_is_told(command: Command) -> None:
    assert command("tls", "issue", "a", "--tenant", "t1").exit_code == 1
    begun, ended = shown(command)
    assert (begun["action"], begun["outcome"]) == ("tls.issue", "begun")
    assert (ended["outcome"], ended["target"]) == ("failed", "spiffe://opta/tenant/t1/a")


def test_commands_that_look_leave_no_rows(command: Command, home: Path) -> None:
    command("keys", "create", "--name", "first")
    before = len(shown(command))
    for words in ("keys list", "quotas list", "tls list", "audit", "usage", "models"):
        assert command(*words.split()).exit_code == 0
    assert len(shown(command)) == before


def test_the_document_names_what_is_exempt() -> None:
    text = DOCUMENT.read_text()
    assert [one for one in EXEMPT if f"`opta-lmx {one}`" not in text] == []
    assert [one for one in AUDITED if f"`opta-lmx {one}`" not in text] == []
