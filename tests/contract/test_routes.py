"""Every route there is, for callers with no key, a wrong one, one for other things, the right one.

The routes are those of the live router: one without a row in `api.rules` fails here.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from opta_lmx.api import rules
from opta_lmx.config.profiles import PROFILES
from opta_lmx.core.principal import Scope
from opta_lmx.models.store import ModelStore
from tests.contract.failures import SURFACES, Surface
from tests.support.live_routes import Way, live_ways
from tests.support.server import LiveServer, sim_server
from tests.support.waiting import wait_until
from tests.support.websocket import MESSAGES, WsClient
from tests.support.weights import small_gguf

SCRIPTS: dict[str, dict[str, Any]] = {
    "chat-ok": {"reply": "one two"},
    "chat-held": {"reply": "word " * 4000, "step_ms": 5},
    "chat-secret": {},
    "embedding-ok": {"kind": "embedding"},
    "embedding-secret": {"kind": "embedding"},
    "rerank-ok": {"kind": "rerank"},
    "rerank-secret": {"kind": "rerank"},
}
WITHOUT = {scope: f"sk-everything-but-{scope}" for scope in Scope}
OPERATOR, BOT, STRANGER, NARROW = "sk-operator", "sk-bot", "sk-stranger", "sk-narrow"
KEYS: list[dict[str, Any]] = [
    *(
        {"name": f"no-{scope}", "key": key, "scopes": [one for one in Scope if one is not scope]}
        for scope, key in WITHOUT.items()
    ),
    {"name": "operator", "key": OPERATOR, "scopes": [*Scope]},
    {"name": "bot", "key": BOT, "tenant": "ours"},
    {"name": "stranger", "key": STRANGER, "tenant": "theirs"},
    {"name": "narrow", "key": NARROW, "models": ["chat-ok", "*-none"]},
]
PROXY = "127.0.0.1"
FAR = {"X-Forwarded-For": "203.0.113.9"}


@pytest.fixture(scope="module", params=sorted(PROFILES))
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """A server under each profile; where a proxy is needed, this machine is one."""
    home = tmp_path_factory.mktemp("home")
    source = home / "m.gguf"
    source.write_bytes(small_gguf())
    store = ModelStore(home / "models")
    store.sweep()
    for name in ("chat-ok", "chat-secret"):
        store.add(source, name)
    security = {"profile": request.param, "auth_failures_per_minute": 1000}
    if PROFILES[request.param].proxies == "required":
        security["trusted_proxies"] = [PROXY]
    with sim_server(home, SCRIPTS, security=security, access={"keys": KEYS}) as live:
        yield live


@pytest.fixture
def every_way(server: LiveServer) -> list[Way]:
    found = live_ways(server.app.http.routes)
    assert len(found) > 60
    return found


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def told(server: LiveServer, way: Way, headers: Mapping[str, str]) -> tuple[int, str]:
    """Status and text of what somebody is answered; 101 for an opened socket."""
    if way.kind == "websocket":
        try:
            with WsClient(server.url, way.asked, headers=dict(headers)):
                return 101, ""
        except InvalidStatus as refused:
            return refused.response.status_code, refused.response.body.decode()
    # A list is no body of any route, so that nobody who is let in changes anything.
    body = {"content": b"[]"} if way.method in ("POST", "PUT", "PATCH") else {}
    url = server.url + way.asked
    reply = httpx.request(way.method, url, headers=dict(headers), timeout=30, **body)
    return reply.status_code, reply.text


def test_every_way_in_has_a_row(every_way: list[Way]) -> None:
    missing = [way for way in every_way if rules.row_of(way.kind, way.method, way.asked) is None]
    assert missing == []


def test_every_row_is_of_a_way_in(every_way: list[Way]) -> None:
    rows = {(way, row.path) for row in rules.TABLE for way in row.methods.split() if way != "*"}
    found = {(way.method or "WS", way.path) for way in every_way}
    assert rows <= found


def test_without_a_key_or_with_a_wrong_one_only_liveness_answers(
    server: LiveServer, every_way: list[Way]
) -> None:
    for way in every_way:
        for headers in ({}, bearer("sk-wrong"), {"x-api-key": "sk-wrong"}):
            status, _ = told(server, way, headers)
            assert status == (200 if way.path == "/healthz" else 401), (way, headers)


def test_a_key_for_other_things_does_not_open(server: LiveServer, every_way: list[Way]) -> None:
    asked = [way for way in every_way if way.needed is not None]
    assert {way.needed for way in asked} >= {Scope.INFERENCE, Scope.ADMIN, Scope.METRICS}
    for way in asked:
        assert way.needed is not None
        status, text = told(server, way, bearer(WITHOUT[way.needed]))
        assert status == 403, (way, status)
        assert way.method == "HEAD" or f"'{way.needed.value}'" in text, (way, text)


def test_the_right_key_opens(server: LiveServer, every_way: list[Way]) -> None:
    for way in every_way:
        for headers in (bearer(OPERATOR), {"x-api-key": OPERATOR}, {"x-admin-key": OPERATOR}):
            status, text = told(server, way, headers)
            assert status not in (401, 403, 405, 429), (way, status, text)
            assert "unknown_path" not in text, way
            assert status < 500, (way, status, text)


def test_names_of_others_are_refused_on_every_way(server: LiveServer, every_way: list[Way]) -> None:
    for way in every_way:
        for foreign in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
            if way.kind == "websocket" and "Host" in foreign:
                continue  # the client names the host itself
            status, text = told(server, way, {**bearer(OPERATOR), **foreign})
            assert status == 403, (way, foreign)
            assert way.method == "HEAD" or "refused" in text or "does not answer" in text


def test_who_may_administer_from_elsewhere(server: LiveServer, every_way: list[Way]) -> None:
    proxied = bool(server.settings.security.trusted_proxies)
    remote = PROFILES[server.settings.security.profile].remote_admin
    for way in every_way:
        if way.needed is not Scope.ADMIN:
            continue
        status, text = told(server, way, {**bearer(OPERATOR), **FAR})
        if proxied and not remote:
            assert status == 403, way
            assert "only its own machine" in text
        else:
            assert status not in (401, 403), (way, text)


# --- other tenants, other models


def ask_response(server: LiveServer, key: str, **fields: Any) -> httpx.Response:
    body = {"model": "chat-ok", "input": "hi", **fields}
    return httpx.post(f"{server.url}/v1/responses", json=body, headers=bearer(key), timeout=30)


def test_another_tenants_response_is_not_there(server: LiveServer, every_way: list[Way]) -> None:
    made = ask_response(server, BOT).json()
    url = f"/v1/responses/{made['id']}"
    stored = [way for way in every_way if way.path.startswith("/v1/responses/{response_id}")]
    assert len(stored) == 4
    for way in stored:
        path = way.path.format(response_id=made["id"])
        for key, expected in ((STRANGER, 404), (OPERATOR, 404)):
            reply = httpx.request(way.method, server.url + path, headers=bearer(key))
            assert reply.status_code == expected, (way, reply.text)
            assert reply.json()["error"]["code"] == "response_not_found"
    continued = ask_response(server, STRANGER, previous_response_id=made["id"])
    assert continued.json()["error"]["code"] == "previous_response_not_found"
    item = made["output"][0]["id"]
    named = ask_response(server, STRANGER, input=[{"type": "item_reference", "id": item}])
    assert named.json()["error"]["code"] == "item_not_found"
    own = httpx.get(server.url + url, headers=bearer(BOT))
    assert (own.status_code, own.json()["id"]) == (200, made["id"])
    assert ask_response(server, BOT, previous_response_id=made["id"]).status_code == 200
    assert httpx.delete(server.url + url, headers=bearer(BOT)).status_code == 200


def test_another_tenants_work_is_not_stopped(server: LiveServer) -> None:
    made = ask_response(server, BOT, model="chat-held", background=True).json()
    url = f"{server.url}/v1/responses/{made['id']}"

    def state() -> str:
        return httpx.get(url, headers=bearer(BOT)).json()["status"]

    wait_until(lambda: state() == "in_progress")
    assert httpx.delete(url, headers=bearer(STRANGER)).status_code == 404
    assert httpx.post(f"{url}/cancel", headers=bearer(STRANGER)).status_code == 404
    assert state() == "in_progress"
    assert httpx.post(f"{url}/cancel", headers=bearer(BOT)).json()["status"] == "cancelled"


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.path)
def test_a_model_that_is_not_for_a_key_is_refused_in_the_same_words_as_none(
    server: LiveServer, surface: Surface
) -> None:
    if server.settings.security.profile != "loopback":
        return  # what is allowed is the same under each profile; one is enough
    load = {"model": f"{surface.kind}-secret"}
    url = f"{server.url}/admin/models/load"
    assert httpx.post(url, json=load, headers=bearer(OPERATOR), timeout=30).status_code == 200
    words: set[tuple[int, str]] = set()
    for model in ("secret", "missing"):
        for extra in ({}, {"no_such_field": 1}):
            body = {**surface.request(model, "hi", stream=False), **extra}
            headers = bearer(NARROW)
            reply = httpx.post(server.url + surface.path, json=body, headers=headers, timeout=30)
            named = reply.text.replace(f"{surface.kind}-{model}", "NAME")
            named = re.sub("req-[A-Za-z0-9]+", "ID", named)
            words.add((reply.status_code, named))
    assert {status for status, _ in words} == {403}
    assert len(words) == 1


def test_a_model_that_is_for_a_key_answers(server: LiveServer) -> None:
    for name, status in (("chat-ok", 200), ("chat-none", 404), ("chat-secret", 403)):
        body = {"model": name, "messages": MESSAGES}
        url = f"{server.url}/v1/chat/completions"
        reply = httpx.post(url, json=body, headers=bearer(NARROW), timeout=30)
        assert reply.status_code == status, reply.text
    with WsClient(server.url, headers=bearer(NARROW)) as client:
        client.ask("a", "chat-secret")
        assert client.until("a")["error"]["code"] == "model_not_allowed"
        client.ask("b", "chat-ok")
        assert client.until("b")["type"] == "chat.done"


def names_in(value: Any) -> set[str]:
    """Every text in a JSON value."""
    if isinstance(value, dict):
        return {name for each in value.values() for name in names_in(each)}
    if isinstance(value, list):
        return {name for each in value for name in names_in(each)}
    return {value} if isinstance(value, str) else set()


@pytest.mark.parametrize("path", ["/v1/models", "/api/v0/models", "/api/v1/models", "/api/tags"])
def test_lists_show_what_a_key_may_use(server: LiveServer, path: str) -> None:
    def listed(key: str) -> set[str]:
        reply = httpx.get(server.url + path, headers=bearer(key), timeout=30)
        return names_in(reply.raise_for_status().json()) & SCRIPTS.keys()

    assert listed(BOT) == {"chat-ok", "chat-secret"}
    assert listed(NARROW) == {"chat-ok"}


@pytest.mark.parametrize("path", ["/v1/models/{}", "/api/v0/models/{}"])
def test_one_model_is_described_to_those_who_may_use_it(server: LiveServer, path: str) -> None:
    for key, name, status in (
        (NARROW, "chat-ok", 200),
        (NARROW, "chat-secret", 403),
        (NARROW, "chat-missing", 403),
        (BOT, "chat-secret", 200),
        (BOT, "chat-missing", 404),
    ):
        reply = httpx.get(server.url + path.format(name), headers=bearer(key))
        assert reply.status_code == status, (name, reply.text)


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_loading_and_unloading_by_asking_nothing_is_an_operators(
    server: LiveServer, path: str
) -> None:
    for more in ({}, {"keep_alive": 0}):
        body = {"model": "chat-ok", **more}
        refused = httpx.post(server.url + path, json=body, headers=bearer(BOT))
        assert refused.status_code == 403
        assert "'admin'" in refused.text
        done = httpx.post(server.url + path, json=body, headers=bearer(OPERATOR), timeout=30)
        assert done.status_code == 200


def test_where_no_key_is_asked_for_everything_is_open(tmp_path: Path) -> None:
    with sim_server(tmp_path, SCRIPTS) as server:
        for way in live_ways(server.app.http.routes):
            status, text = told(server, way, {})
            assert status not in (401, 403, 405), (way, text)
