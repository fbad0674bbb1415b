"""A key and a prompt that may turn up nowhere, through every route there is, right and wrong.

The server is a process of its own with its log at `debug`. Routes are those of the live router:
one without a request here fails. Then everything that it wrote or answers operators is searched,
over HTTP and by commands.
"""

import contextlib
import sqlite3
from typing import Any

import httpx
import pytest

from opta_lmx.core.principal import Scope
from tests.contract import canaries_asked as asked
from tests.contract.canaries_asked import BODY_LIMIT, SCRIPTS, Run, Secrets
from tests.support.canaries import drawn, sightings
from tests.support.live_routes import live_ways
from tests.support.server import sim_server
from tests.support.sim_program import sim_process

pytestmark = pytest.mark.timeout(300)

STORED_TABLES = frozenset({"responses", "response_items"})
"""Where prompts are kept on purpose: what callers have stored, and ask for again."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("canary")
    home, log = folder / "home", folder / "output"
    configured = f"sk-configured-{drawn()}"
    prompt = f'Zoë said "{drawn()}" \\ and\nmore'
    sections: dict[str, Any] = {
        "logging": {"level": "debug", "format": "json"},
        "access": {"keys": [{"name": "operator", "key": configured, "scopes": [*Scope]}]},
        "security": {"auth_failures_per_minute": 1000},
        "server": {"body_limit_bytes": BODY_LIMIT},
        "models": {"downloads_enabled": False},
        "engine": {"restart_backoff_s": 0.1},
        "audit": {"reads": True},
    }
    with sim_server(folder / "router", {}, **sections) as other:
        ways = live_ways(other.app.http.routes)
    with sim_process(home, SCRIPTS, log=log, **sections) as server:
        made: list[str] = []
        shown = {"Authorization": f"Bearer {configured}"}
        for name in ("stored", "brief"):
            body = {"name": name, "scopes": [*Scope]}
            reply = httpx.post(f"{server.url}/admin/keys", json=body, headers=shown)
            made.append(reply.raise_for_status().json()["secret"])
        ended = httpx.delete(f"{server.url}/admin/keys/{made[1]}", headers=shown)
        assert ended.status_code == 200
        secrets = Secrets(configured, made[0], f"sk-wrong-{drawn()}", made[1], prompt)
        found = Run(server, secrets, ways)
        found.home, found.logs = home, [log, folder / "lenient"]
        asked.ask_for_what_was_stored(found)
        asked.ask_models(found)
        asked.ask_wrongly(found)
        asked.ask_sockets(found)
        asked.show_keys_everywhere(found)
        asked.show_keys_in_paths_and_protocols(found)
        asked.break_http(found)
        asked.read_what_operators_see(found)
    sections["protocol"] = {"unknown_fields": "warn"}
    with sim_process(home, SCRIPTS, log=found.logs[1], **sections) as found.server:
        asked.let_unknown_fields_pass(found)
    asked.read_what_commands_tell(found)
    return found


def test_no_application_is_mounted_whose_routes_are_not_asked_here(run: Run) -> None:
    """What lies below one is not known: whoever mounts it says what is to be asked."""
    assert run.mounts == []


def test_every_route_was_asked(run: Run) -> None:
    assert len(run.ways) > 60
    assert [way for way in run.ways if way not in run.asked] == []
    statuses = {answer.status for answer in run.answers}
    assert statuses >= {101, 200, 400, 401, 403, 404, 405, 413, 431, 500}


def test_no_answer_tells_a_key(run: Run) -> None:
    seen = [
        f"{answer.label} {answer.status}: {found}"
        for answer in run.answers
        for found in sightings(answer.headers.encode() + answer.body, run.secrets.keys)
    ]
    assert not seen, "\n".join(sorted(seen))


def test_no_error_tells_a_prompt(run: Run) -> None:
    # Whose own word the name of a field is, is told which one is not known.
    wrong = [one for one in run.answers if one.status >= 400 or one.label.startswith("WS")]
    wrong = [one for one in wrong if ": named" not in one.label]
    assert len(wrong) > 1000
    seen = [
        f"{answer.label} {answer.status}: {found}"
        for answer in wrong
        for found in sightings(answer.headers.encode() + answer.body, run.secrets.words)
    ]
    assert not seen, "\n".join(sorted(seen))


def test_no_document_for_operators_tells_either(run: Run) -> None:
    hidden = [*run.secrets.keys, *run.secrets.words]
    seen = [
        f"{path}: {one}" for path, body in run.documents.items() for one in sightings(body, hidden)
    ]
    assert not seen, "\n".join(sorted(seen))


def test_the_log_tells_neither(run: Run) -> None:
    text = b"".join(log.read_bytes() for log in run.logs)
    assert text.count(b'"request"') > 1000, "the log is at its most talkative"
    hidden = [*run.secrets.keys, *run.secrets.words]
    seen = [found for line in text.splitlines() for found in sightings(line, hidden)]
    assert not seen, "\n".join(sorted(seen))


def test_no_file_of_the_home_tells_either_but_stored_responses(run: Run) -> None:
    home = run.home
    files = [path for path in home.rglob("*") if path.is_file()]
    assert any(path.parent.name == "logs" for path in files)
    seen: list[str] = []
    for path in files:
        database = path.name.startswith("lmx.db")
        hidden = run.secrets.keys if database else [*run.secrets.keys, *run.secrets.words]
        seen += [f"{path.relative_to(home)}: {one}" for one in sightings(path.read_bytes(), hidden)]
    assert not seen, "\n".join(sorted(seen))


def test_only_stored_responses_hold_prompts_in_the_database(run: Run) -> None:
    home = run.home
    holding: set[str] = set()
    with contextlib.closing(sqlite3.connect(home / "lmx.db")) as database:
        names = "SELECT name FROM sqlite_master WHERE type = 'table'"
        tables = [row[0] for row in database.execute(names)]
        assert {"audit_rows", "api_keys"} <= set(tables)
        for table in tables:
            for row in database.execute(f'SELECT * FROM "{table}"'):
                for cell in row:
                    data = cell if isinstance(cell, bytes) else str(cell).encode()
                    if any(sightings(data, run.secrets.words)):
                        holding.add(table)
    # That they are found there shows that the search finds.
    assert holding
    assert holding <= STORED_TABLES
