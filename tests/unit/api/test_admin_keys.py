"""`/admin/keys` over its own routes: what is made, told, refused, and what nobody may grant."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from opta_lmx.api.admin.keys import AdminKeys
from opta_lmx.api.callers import ENDS, PRINCIPAL
from opta_lmx.api.errors import Envelopes
from opta_lmx.api.http import create_http
from opta_lmx.api.openai.errors import render
from opta_lmx.core import principal
from opta_lmx.core.principal import Budgets, Lane, Principal
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.serving.budgeting import Budgeting
from opta_lmx.store.database import Database
from opta_lmx.tenancy.key_book import KeyBook
from opta_lmx.tenancy.key_rows import SCHEMA, Found
from opta_lmx.tenancy.keyring import Keyring
from tests.support.asynchronous import in_loop
from tests.support.clocks import HandClock

Json = dict[str, Any]
ADMIN, INFERENCE = principal.Scope.ADMIN, principal.Scope.INFERENCE
FIXED = [("sk-config", Principal(key="config"))]


class Desk:
    """The routes, asked by whoever `maker` is."""

    def __init__(self, http: httpx.AsyncClient, ring: Keyring, clock: HandClock) -> None:
        self.http = http
        self.ring = ring
        self.clock = clock

    async def make(self, **body: Any) -> Json:
        reply = await self.http.post("/admin/keys", json={"name": "bot", **body})
        assert reply.status_code == 201, reply.text
        return reply.json()

    async def refused(self, method: str, path: str, **sent: Any) -> tuple[int, str, str | None]:
        reply = await self.http.request(method, path, **sent)
        error = reply.json()["error"]
        return reply.status_code, error["code"], error["param"]


@asynccontextmanager
async def desk(
    home: Path, maker: Principal | None = FIXED[0][1], ends_ms: int | None = None
) -> AsyncIterator[Desk]:
    clock = HandClock(1_900_000_000.0)
    telemetry = NullTelemetry()
    database = Database(home / "lmx.db", (SCHEMA,), clock, telemetry)
    ring = Keyring(FIXED, database, clock, required=False)
    book = KeyBook(database, clock, ["config"])
    routes = AdminKeys(ring, book, Budgeting(clock, telemetry), clock).router()
    app = create_http([routes], Envelopes(render), telemetry)
    transport = httpx.ASGITransport(shown_by(maker, app, ends_ms))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        yield Desk(http, ring, clock)
    await database.close()


def shown_by(maker: Principal | None, app: ASGIApp, ends_ms: int | None) -> ASGIApp:
    """The application behind a guard that has let `maker` in."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if maker is not None:
            scope[PRINCIPAL] = maker
            scope[ENDS] = ends_ms
        await app(scope, receive, send)

    return guarded


@in_loop
async def test_a_key_is_told_once_and_works_at_once(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        reply = await here.http.post("/admin/keys", json={"name": "bot", "expires": "1h"})
        made = reply.json()
        secret = made.pop("secret")
        assert reply.headers["cache-control"] == "no-store"
        assert here.ring.owner(secret) == Principal(key="bot", scopes=frozenset({INFERENCE}))
        listed = await here.http.get("/admin/keys")
        config, stored = listed.json()["data"]
        assert stored == made
        assert secret not in listed.text
        assert "hash" not in stored
        assert (config["name"], config["id"], config["source"]) == ("config", None, "config")
        assert made["expires_ms"] == here.clock.now_ms() + 3_600_000
        assert (made["state"], made["source"], made["minute"]) == ("active", "stored", None)


@in_loop
async def test_every_field_reaches_the_key(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        made = await here.make(
            name="all",
            tenant="fleet",
            scopes=["agents", "metrics"],
            models=["org/*"],
            lane="background",
            weight=2,
            max_running=3,
            budgets={"prompt_tokens": 1, "prompt_tokens_per_minute": 2, "max_tokens": 3},
            expires="2035-01-01",
            note="a note",
        )
        assert here.ring.owner(made["secret"]) == Principal(
            tenant="fleet",
            key="all",
            lane=Lane.BACKGROUND,
            weight=2.0,
            max_running=3,
            budgets=Budgets(1, 2, 3),
            scopes=frozenset({principal.Scope.AGENTS, principal.Scope.METRICS}),
            models=("org/*",),
        )
        assert (made["note"], made["scopes"]) == ("a note", ["agents", "metrics"])
        assert made["minute"] == {"limit": 2, "remaining": 2, "reset_s": 0.0}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": 7}, "name"),
        ({"name": "a", "secret": "lmx_mine"}, "secret"),
        ({"name": "a", "scopes": []}, "scopes"),
        ({"name": "a", "scopes": ["root"]}, "scopes.0"),
        ({"name": "a", "scopes": "admin"}, "scopes"),
        ({"name": "a", "models": []}, "models"),
        ({"name": "a", "lane": "fast"}, "lane"),
        ({"name": "a", "weight": 0}, "weight"),
        ({"name": "a", "weight": True}, "weight"),
        ({"name": "a", "max_running": -1}, "max_running"),
        ({"name": "a", "budgets": {"kv_bytes": 0}}, "budgets.kv_bytes"),
        ({"name": "a", "budgets": {"tokens": 1}}, "budgets.tokens"),
        ({"name": "a", "expires": "soon"}, "expires"),
        ({"name": "a", "note": "two\nlines"}, "note"),
    ],
)
@in_loop
async def test_bodies_are_strict(tmp_path: Path, body: Json, param: str) -> None:
    async with desk(tmp_path) as here:
        status, _, named = await here.refused("POST", "/admin/keys", json=body)
        assert (status, named) == (400, param)
        assert here.ring.stored == 0


@in_loop
async def test_a_name_is_taken_once(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        await here.make()
        for name in ("bot", "config"):
            refusal = await here.refused("POST", "/admin/keys", json={"name": name})
            assert refusal == (409, "key_name_taken", "name")


@in_loop
async def test_rotate_and_revoke(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        old = await here.make(expires="1h")
        reply = await here.http.post(f"/admin/keys/{old['id']}/rotate", json={"grace": "10s"})
        new = reply.json()
        assert reply.status_code == 201
        assert new["expires_ms"] == old["expires_ms"]
        assert here.ring.owner(old["secret"]) == here.ring.owner(new["secret"])
        listed = (await here.http.get("/admin/keys")).json()["data"][1:]
        assert [one["state"] for one in listed] == ["grace", "active"]
        assert listed[0]["replaced_by"] == new["id"]
        assert listed[0]["replaced_ms"] == here.clock.now_ms() + 10_000
        newest = (await here.http.post(f"/admin/keys/{new['id']}/rotate")).json()
        assert here.ring.owner(new["secret"]) is None
        gone = await here.http.delete(f"/admin/keys/{newest['id']}")
        assert (gone.status_code, gone.json()["state"]) == (200, "revoked")
        assert here.ring.stored == 0
        assert here.ring.required


@pytest.mark.parametrize(("grace", "works"), [("0", False), ("1h", True)])
@in_loop
async def test_a_look_that_began_before_brings_no_replaced_key_back(
    tmp_path: Path, grace: str, *, works: bool
) -> None:
    async with desk(tmp_path) as here:
        old = await here.make()
        before = Found(1, tuple(here.ring._rows.values()))
        path = f"/admin/keys/{old['id']}/rotate"
        assert (await here.http.post(path, json={"grace": grace})).status_code == 201
        here.ring._take(before)
        assert (here.ring.owner(old["secret"]) is not None) is works


@pytest.mark.parametrize(("method", "tail"), [("POST", "/rotate"), ("DELETE", "")])
@in_loop
async def test_what_is_not_stored_cannot_be_changed(tmp_path: Path, method: str, tail: str) -> None:
    async with desk(tmp_path) as here:
        await here.make(name="named")
        for key_id, status, code in (
            ("config", 409, "key_in_configuration"),
            ("nothing1", 404, "key_not_found"),
            ("named", 404, "key_not_found"),
            ("%2e%2e%2fadmin", 404, None),
            ("x" * 5000, 404, "key_not_found"),
        ):
            got = await here.refused(method, f"/admin/keys/{key_id}{tail}")
            assert got[0] == status
            assert code in (None, got[1])


@in_loop
async def test_nobody_grants_what_they_lack(tmp_path: Path) -> None:
    async with desk(tmp_path) as operator:
        wide = await operator.make(name="wide", scopes=["inference", "admin"])
    maker = Principal(key="half", scopes=frozenset({ADMIN}), models=("org/*",))
    async with desk(tmp_path, maker) as here:
        for body in ({}, {"scopes": ["admin", "metrics"]}):
            refusal = await here.refused("POST", "/admin/keys", json={"name": "a", **body})
            assert refusal == (403, "scope_not_grantable", "scopes")
        for models in (None, ["*"], ["org/a", "other"]):
            asked = {"name": "a", "scopes": ["admin"], "models": models}
            refusal = await here.refused("POST", "/admin/keys", json=asked)
            assert refusal == (403, "model_not_grantable", "models")
        # A new text of a stronger key would be that key.
        refusal = await here.refused("POST", f"/admin/keys/{wide['id']}/rotate")
        assert refusal == (403, "scope_not_grantable", "scopes")
        assert here.ring.owner(wide["secret"])
        made = await here.make(scopes=["admin"], models=["org/a*"])
        assert here.ring.owner(made["secret"])


@in_loop
async def test_without_a_database_keys_of_the_configuration_are_told(tmp_path: Path) -> None:
    (tmp_path / "lmx.db").write_bytes(b"no database" * 1000)
    async with desk(tmp_path) as here:
        assert len((await here.http.get("/admin/keys")).json()["data"]) == 1
        refusal = await here.refused("POST", "/admin/keys", json={"name": "a"})
        assert refusal[:2] == (503, "store_unavailable")


@in_loop
async def test_a_temporary_administrator_makes_nothing_lasting(tmp_path: Path) -> None:
    ends_ms = 1_900_000_060_000
    async with desk(tmp_path, Principal(key="guest"), ends_ms) as here:
        refusal = await here.refused("POST", "/admin/keys", json={"name": "a"})
        assert refusal == (403, "expiry_not_grantable", "expires")
        made = await here.make(expires="1m", tenant="other")
        asked = {"expires": "never"}
        refusal = await here.refused("POST", f"/admin/keys/{made['id']}/rotate", json=asked)
        assert refusal == (403, "expiry_not_grantable", "expires")


@in_loop
async def test_who_has_shown_no_key_makes_none_once_one_is_needed(tmp_path: Path) -> None:
    async with desk(tmp_path, None) as here:
        refusal = await here.refused("POST", "/admin/keys", json={"name": "late"})
        assert refusal[:2] == (401, "invalid_api_key")
        assert here.ring.stored == 0
