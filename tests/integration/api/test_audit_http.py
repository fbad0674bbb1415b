"""Operators over HTTP leave rows: every route of theirs, everybody who is refused, and a crash."""

import asyncio
import contextlib
import json
import signal
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from opta_lmx.api.audit_actions import AUDITED, READS, asked_for
from opta_lmx.api.body import OPERATORS_BYTES
from opta_lmx.core.clock import SystemClock
from opta_lmx.core.principal import Scope
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.store.database import Database
from opta_lmx.tenancy.audit import AuditLog
from opta_lmx.tenancy.audit_rows import SCHEMA
from tests.support.live_routes import Way, live_ways
from tests.support.server import LiveServer, sim_server
from tests.support.sim_program import sim_process
from tests.support.waiting import wait_until

OPERATOR, BOT = "sk-operator-canary", "sk-bot-canary"
KEYS = [
    {"name": "operator", "key": OPERATOR, "tenant": "house", "scopes": [*Scope]},
    {"name": "bot", "key": BOT, "tenant": "fleet"},
]
Row = dict[str, Any]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@contextlib.contextmanager
def serving(home: Path, **sections: Any) -> Iterator[LiveServer]:
    with sim_server(home, {"m": {}}, access={"keys": KEYS}, **sections) as server:
        yield server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    with serving(tmp_path, security={"auth_failures_per_minute": 1000}) as live:
        yield live


def rows(server: LiveServer, **query: Any) -> list[Row]:
    """What the log holds, without its last row: that of this very question."""
    url = f"{server.url}/admin/audit"
    asked = {"after": 0, "limit": 1000, **query}
    reply = httpx.get(url, params=asked, headers=bearer(OPERATOR)).raise_for_status()
    return reply.json()["data"]


def ask(server: LiveServer, method: str, path: str, key: str | None = OPERATOR, **more: Any) -> Any:
    headers = {**({} if key is None else bearer(key)), **more.pop("headers", {})}
    return httpx.request(method, server.url + path, headers=headers, timeout=60, **more)


def operators_ways(server: LiveServer) -> list[Way]:
    found = [way for way in live_ways(server.app.http.routes) if way.needed in AUDITED]
    assert len(found) > 20
    return found


def test_every_route_that_changes_something_leaves_two_rows(server: LiveServer) -> None:
    ways = [way for way in operators_ways(server) if way.method not in READS]
    assert len(ways) > 12
    seen = 0
    for way in ways:
        asked = asked_for(way.method, way.asked)
        assert not asked.action.name.startswith("other."), f"{way} has no name in the audit log"
        field = asked.action.field
        body = {field: "m"} if field else {}
        more = {"json": body} if way.method in ("POST", "PUT", "PATCH") else {}
        reply = ask(server, way.method, way.asked, headers={"x-request-id": "my-id"}, **more)
        assert reply.status_code not in (401, 403), (way, reply.text)
        begun, ended = rows(server, after=seen)
        seen = ended["seq"]
        assert (begun["action"], begun["outcome"]) == (asked.action.name, "begun"), way
        assert (ended["began"], ended["action"]) == (begun["seq"], asked.action.name)
        assert begun["target"] == ("m" if field else asked.target), way
        assert ended["target"] or not (field or "{" in way.path), way
        assert ended["status"] == reply.status_code
        assert ended["outcome"] == ("ok" if reply.status_code < 400 else "failed")
        assert bool(ended["code"]) == (reply.status_code >= 400), (way, ended)
        for row in (begun, ended):
            assert (row["tenant"], row["who"]) == ("house", "operator")
            assert (row["address"], row["request_id"]) == ("127.0.0.1", "my-id")


def test_no_route_acts_on_a_body_that_is_too_long_to_be_looked_at(server: LiveServer) -> None:
    """Else whoever asks could leave out of the log what it was done to."""
    asked = 0
    for way in operators_ways(server):
        field = asked_for(way.method, way.asked).action.field
        if not field or way.method in READS:
            continue
        body = json.dumps({field: "m"}).encode() + b" " * OPERATORS_BYTES
        for content in (body, iter([body])):
            reply = ask(server, way.method, way.asked, content=content)
            assert reply.status_code == 413, (way, reply.text)
            asked += 1
    assert asked > 15
    held = httpx.get(f"{server.url}/admin/models", headers=bearer(OPERATOR)).json()["data"]
    assert held == [], "nothing was loaded"


def test_everybody_who_is_refused_on_such_a_route_leaves_a_row_or_is_counted(
    server: LiveServer,
) -> None:
    asked = 0
    for way in operators_ways(server):
        for key in (None, "sk-wrong-canary", BOT):
            assert ask(server, way.method, way.asked, key).status_code in (401, 403)
            asked += 1
    kept = rows(server)
    assert {row["outcome"] for row in kept} == {"refused"}
    assert len(kept) == 10, "one address and one key have few rows a minute"
    by_who = {row["who"]: (row["tenant"], row["status"], row["code"]) for row in kept}
    assert by_who["anonymous"] == ("", 401, "invalid_api_key")
    assert by_who["bot"] == ("fleet", 403, "insufficient_scope")


def test_what_was_only_counted_is_written_when_the_server_ends(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        for _ in range(12):
            ask(server, "DELETE", "/admin/keys/none", BOT)
    with contextlib.closing(sqlite3.connect(tmp_path / "lmx.db")) as database:
        found = database.execute("SELECT action, target FROM audit_rows ORDER BY seq").fetchall()
    assert [action for action, _ in found] == ["keys.revoke"] * 5 + ["audit.refusals"]
    assert found[-1][1] == "7 more refusals, from 1 keys (fleet/bot: 7)"


def test_foreign_names_are_refusals_too(server: LiveServer) -> None:
    ask(server, "POST", "/admin/models/load", headers={"Origin": "https://evil.example"})
    (row,) = rows(server)
    assert (row["code"], row["who"], row["outcome"]) == (
        "origin_not_allowed",
        "anonymous",
        "refused",
    )


def test_keys_and_who_looks_at_them(server: LiveServer) -> None:
    made = ask(server, "POST", "/admin/keys", json={"name": "new", "scopes": ["metrics"]}).json()
    ask(server, "GET", "/admin/keys")
    ask(server, "GET", "/admin/status")
    again = ask(server, "POST", f"/admin/keys/{made['id']}/rotate").json()
    ask(server, "POST", "/admin/keys", json={"name": "more", "expires": "yesterday"})
    ask(server, "DELETE", f"/admin/keys/{again['id']}")
    told = [(row["action"], row["outcome"], row["target"]) for row in rows(server)]
    words = "new ({}) of default, for metrics"
    assert told == [
        ("keys.create", "begun", "new"),
        ("keys.create", "ok", words.format(made["id"])),
        ("keys.list", "ok", ""),
        ("keys.rotate", "begun", made["id"]),
        ("keys.rotate", "ok", words.format(again["id"])),
        ("keys.create", "begun", "more"),
        ("keys.create", "failed", "more"),
        ("keys.revoke", "begun", again["id"]),
        ("keys.revoke", "ok", words.format(again["id"])),
    ]


def test_secrets_in_paths_and_bodies_are_masked(server: LiveServer) -> None:
    made = ask(server, "POST", "/admin/keys", json={"name": "new"}).json()
    ask(server, "DELETE", f"/admin/keys/{made['secret']}")
    ask(server, "POST", "/admin/models/load", json={"model": f"{OPERATOR}\r\nforged"})
    text = str(rows(server))
    assert made["secret"] not in text
    assert made["secret"][-20:] not in text
    assert OPERATOR not in text
    assert f"lmx_{made['id']}_***" in text
    assert r"***\\r\\nforged" in text


def test_loading_by_asking_nothing_is_written_down(server: LiveServer) -> None:
    for path, body in (
        ("/api/generate", {"model": "m"}),
        ("/api/chat", {"model": "m", "messages": [], "keep_alive": 0}),
        ("/api/generate", {"model": "none"}),
    ):
        assert ask(server, "POST", path, BOT, json=body).status_code == 403
        ask(server, "POST", path, json=body)
    told = [(row["who"], row["action"], row["outcome"], row["target"]) for row in rows(server)]
    assert told == [
        ("bot", "models.load", "refused", "m"),
        ("operator", "models.load", "begun", "m"),
        ("operator", "models.load", "ok", "m"),
        ("bot", "models.unload", "refused", "m"),
        ("operator", "models.unload", "begun", "m"),
        ("operator", "models.unload", "ok", "m"),
        ("bot", "models.load", "refused", "none"),
        ("operator", "models.load", "begun", "none"),
        ("operator", "models.load", "failed", "none"),
    ]


def test_inference_leaves_nothing(server: LiveServer) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    for key, status in ((BOT, 200), ("sk-wrong-canary", 401)):
        reply = ask(server, "POST", "/v1/chat/completions", key, json=body)
        assert reply.status_code == status
    assert rows(server) == []


def test_reads_are_written_where_that_is_set(tmp_path: Path) -> None:
    with serving(tmp_path, audit={"reads": True}) as server:
        ask(server, "GET", "/admin/queue")
        ask(server, "GET", "/metrics")
        told = [(row["action"], row["target"]) for row in rows(server)]
    assert told == [("other.read", "/admin/queue")]


# --- reading


def test_pages_go_on_and_back(server: LiveServer) -> None:
    for _ in range(6):
        ask(server, "POST", "/admin/presets/reload")

    def page(**query: Any) -> tuple[list[int], bool]:
        reply = ask(server, "GET", "/admin/audit", params=query).json()
        numbers = [row["seq"] for row in reply["data"]]
        assert (reply["first"], reply["last"]) == (
            (numbers[0], numbers[-1]) if numbers else (None, None)
        )
        return numbers, reply["has_more"]

    assert page(limit=4) == ([9, 10, 11, 12], True)
    assert page(limit=4, before=9) == ([5, 6, 7, 8], True)
    assert page(limit=4, before=5) == ([1, 2, 3, 4], False)
    assert page(limit=4, after=0) == ([1, 2, 3, 4], True)
    assert page(limit=4, after=10) == ([11, 12], False)
    assert page(after=12) == ([], False)
    assert page(outcome="begun", limit=2, after=0) == ([1, 3], True)
    assert page(who="nobody") == ([], False)
    assert page(action="presets.*", limit=1) == ([12], True)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": 1001}, "limit"),
        ({"limit": 0}, "limit"),
        ({"after": -1}, "after"),
        ({"before": "x"}, "before"),
        ({"outcome": "fine"}, "outcome"),
        ({"who": ""}, "who"),
        ({"since": "1h"}, "since"),
    ],
)
def test_wrong_questions_are_refused_by_name(
    server: LiveServer, query: dict[str, Any], param: str
) -> None:
    reply = ask(server, "GET", "/admin/audit", params=query)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


def test_the_log_is_an_operators(server: LiveServer) -> None:
    assert ask(server, "GET", "/admin/audit", BOT).status_code == 403


# --- when it cannot be written


def break_log(home: Path) -> None:
    with contextlib.closing(sqlite3.connect(home / "lmx.db", isolation_level=None)) as database:
        database.execute("ALTER TABLE audit_rows RENAME TO gone")


def test_beyond_loopback_nothing_is_done_that_cannot_be_written(tmp_path: Path) -> None:
    profile = {"profile": "trusted-gateway", "trusted_proxies": ["10.0.0.1"]}
    with serving(tmp_path, security=profile) as server:
        break_log(tmp_path)
        for way in operators_ways(server):
            field = asked_for(way.method, way.asked).action.field
            body = {"json": {field: "m"} if field else {}} if way.method == "POST" else {}
            reply = ask(server, way.method, way.asked, **body)
            if way.method in READS:
                assert reply.status_code != 503 or way.path == "/admin/audit", way
                continue
            assert reply.status_code == 503, (way, reply.text)
            assert "audit log cannot be written" in reply.text, way
            assert int(reply.headers["retry-after"]) >= 1
        assert server.resolver.loads == []
        named = {key["name"] for key in ask(server, "GET", "/admin/keys").json()["data"]}
        assert named == {"operator", "bot"}
        chat = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        assert ask(server, "POST", "/v1/chat/completions", BOT, json=chat).status_code == 200
        metrics = ask(server, "GET", "/metrics").text
    assert 'opta_lmx_audit_failures_total{outcome="begun"}' in metrics


def test_on_loopback_work_goes_on_and_the_metric_tells(server: LiveServer, tmp_path: Path) -> None:
    break_log(tmp_path)
    assert ask(server, "POST", "/admin/models/load", json={"model": "m"}).status_code == 200
    assert 'audit_failures_total{outcome="ok"} 1' in ask(server, "GET", "/metrics").text


# --- a crash in between


def test_what_a_kill_interrupts_has_left_its_first_row(tmp_path: Path) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    slow = {"slow": {"load_ms": 60_000}}
    with sim_process(home, slow, log=log, access={"keys": KEYS}) as server:
        url = f"{server.url}/admin/models/load"

        def load() -> None:
            with contextlib.suppress(httpx.HTTPError):
                httpx.post(url, json={"model": "slow"}, headers=bearer(OPERATOR), timeout=60)

        asking = threading.Thread(target=load)
        asking.start()

        def begun() -> bool:
            reply = httpx.get(f"{server.url}/admin/audit", headers=bearer(OPERATOR))
            return [row["outcome"] for row in reply.json()["data"]] == ["begun"]

        wait_until(begun, 30)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(20)
        asking.join(20)
    database = Database(home / "lmx.db", (SCHEMA,), SystemClock(), NullTelemetry())
    audit = AuditLog(database, SystemClock(), str)
    verdict = asyncio.run(audit.verify())
    assert (verdict.problem, verdict.rows) == (None, 1)
    asyncio.run(database.close())
    with sim_process(home, slow, log=tmp_path / "log-2", access={"keys": KEYS}) as server:
        reply = httpx.get(f"{server.url}/admin/audit", headers=bearer(OPERATOR)).json()
    (row,) = reply["data"]
    assert (row["action"], row["target"], row["outcome"]) == ("models.load", "slow", "begun")
