"""Who asks reaches the model's line from every surface: a route that forgets its caller fails."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import WebSocketRoute

from opta_lmx.core.principal import Budgets, Caller, Lane, Principal
from tests.contract.failures import SURFACES, Surface
from tests.support.server import LiveServer, sim_server
from tests.support.waiting import wait_until
from tests.support.websocket import MESSAGES, WsClient

EVERYTHING = {"scopes": ["inference", "agents", "skills", "admin", "metrics"]}
KEYS: list[dict[str, Any]] = [
    {
        "name": "bots",
        "key": "sk-bots",
        "tenant": "fleet",
        "weight": 2.5,
        "max_running": 3,
        **EVERYTHING,
    },
    {"name": "jobs", "key": "sk-jobs", "lane": "background", "prompt_tokens": 900, **EVERYTHING},
]
BOTS = Principal("fleet", "bots", Lane.INTERACTIVE, 2.5, 3)
JOBS = Principal("default", "jobs", Lane.BACKGROUND, budgets=Budgets(prompt_tokens=900))
PLAIN = Principal("default", "key-1")
OWNERS = {"sk-bots": BOTS, "sk-jobs": JOBS, "sk-plain": PLAIN}
SCRIPTS: dict[str, dict[str, Any]] = {
    "chat-ok": {},
    "chat-held": {"reply": "word " * 4000, "step_ms": 5},
    "embedding-ok": {"kind": "embedding"},
    "rerank-ok": {"kind": "rerank"},
}
SOCKETS = {"/v1/chat/stream", "/v1/responses"}
NO_CALLS = {
    "/admin/benchmark/run",
    "/admin/keys",
    "/admin/keys/{key_id}/rotate",
    "/admin/models/load",
    "/admin/models/unload",
    "/admin/models/download",
    "/admin/models/download/confirm",
    "/admin/models/fit",
    "/admin/models/probe",
    "/admin/models/{model_id}/reset",
    "/admin/presets/reload",
    "/admin/quantize",
    "/admin/quantize/{job}/cancel",
    "/api/v1/models/load",
    "/api/v1/models/unload",
    "/api/v1/models/download",
    "/api/copy",
    "/api/create",
    "/api/pull",
    "/api/push",
    "/api/show",
    "/v1/responses/{response_id}/cancel",
    "/v1/ws/tickets",
}
"""Routes that are posted to and call no model in a caller's name."""
SAID = {"X-Client-ID": "bot-7", "X-Serving-Lane": "agent", "x-session-affinity": "s-1"}
ADDRESS = "127.0.0.1"
EACH = pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.path)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    home = tmp_path_factory.mktemp("home")
    keys = {"server": {"api_keys": ["sk-plain"]}, "access": {"keys": KEYS}}
    with sim_server(home, SCRIPTS, **keys) as live:
        yield live


@pytest.fixture
def callers(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> list[Caller]:
    """Who has passed the first gate."""
    seen: list[Caller] = []
    gate: Callable[..., Any] = server.app.serving.gate

    def watched(*args: Any, **options: Any) -> Any:
        ticket = gate(*args, **options)
        seen.append(ticket.caller)
        return ticket

    monkeypatch.setattr(server.app.serving, "gate", watched)
    return seen


def headers(key: str, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}", **more}


def post(server: LiveServer, surface: Surface, sent: dict[str, str], **fields: Any) -> int:
    body = {**surface.request("ok", "hi", stream=False), **fields}
    reply = httpx.post(server.url + surface.path, json=body, headers=sent, timeout=30)
    return reply.status_code


def test_every_route_is_known_to_call_a_model_or_not(server: LiveServer) -> None:
    paths = server.app.http.openapi()["paths"]
    posted = {path for path, methods in paths.items() if "post" in methods}
    assert posted - NO_CALLS == {surface.path for surface in SURFACES}
    assert posted >= NO_CALLS
    included = [getattr(one, "original_router", None) for one in server.app.http.routes]
    routes = [route for router in included if router is not None for route in router.routes]
    assert {one.path for one in routes if isinstance(one, WebSocketRoute)} == SOCKETS


@EACH
@pytest.mark.parametrize("key", OWNERS)
def test_the_caller_arrives(
    server: LiveServer, callers: list[Caller], surface: Surface, key: str
) -> None:
    assert post(server, surface, headers(key, **SAID)) == 200
    owner = OWNERS[key]
    assert callers == [Caller(owner, "bot-7", max(owner.lane, Lane.AGENT), "s-1")]
    assert post(server, surface, headers(key)) == 200
    assert callers[1:] == [Caller(owner, ADDRESS, owner.lane, None)]


@EACH
@pytest.mark.parametrize(("header", "word"), [("X-Serving-Lane", "fast"), ("X-Priority", "7")])
def test_a_lane_nobody_knows_is_refused_before_the_line(
    server: LiveServer, callers: list[Caller], surface: Surface, header: str, word: str
) -> None:
    body = surface.request("ok", "hi", stream=True)
    reply = httpx.post(
        server.url + surface.path, json=body, headers=headers("sk-bots", **{header: word})
    )
    assert reply.status_code == 400
    assert header.lower() in surface.error(reply.json()).message
    assert callers == []


USERS = {
    "/v1/chat/completions": {"user": "u-1"},
    "/v1/completions": {"user": "u-1"},
    "/v1/responses": {"safety_identifier": "u-1"},
    "/v1/messages": {"metadata": {"user_id": "u-1"}},
    "/v1/embeddings": {"user": "u-1"},
}


@EACH
def test_the_bodys_user_is_the_client_where_no_header_is(
    server: LiveServer, callers: list[Caller], surface: Surface
) -> None:
    if surface.path not in USERS:
        assert post(server, surface, headers("sk-bots"), user="u-1") == 400
        return
    said = USERS[surface.path]
    assert post(server, surface, headers("sk-bots"), **said) == 200
    agent = {"x-openclaw-agent-id": "main"}
    assert post(server, surface, headers("sk-bots", **agent), **said) == 200
    assert [caller.client for caller in callers] == ["u-1", "main"]


def test_a_response_in_the_background_has_its_caller(
    server: LiveServer, callers: list[Caller]
) -> None:
    surface = next(one for one in SURFACES if one.path == "/v1/responses")
    assert post(server, surface, headers("sk-jobs", **SAID), background=True, store=True) == 200
    assert callers == [Caller(JOBS, "bot-7", Lane.BACKGROUND, "s-1")]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", sorted(SOCKETS))
def test_a_sockets_requests_have_the_caller_of_its_handshake(
    server: LiveServer, callers: list[Caller], path: str, stream: bool
) -> None:
    sent = headers("sk-bots", **SAID) if stream else headers("sk-bots")
    with WsClient(server.url, path, headers=sent) as client:
        for user in (None, "u-2"):
            ask(client, path, {} if user is None else {"user": user})
    said = Caller(BOTS, "bot-7", Lane.AGENT, "s-1")
    own = [Caller(BOTS, ADDRESS), Caller(BOTS, "u-2")]
    assert callers == ([said, said] if stream else own)


@pytest.mark.parametrize("path", sorted(SOCKETS))
def test_a_socket_with_a_lane_nobody_knows_is_told_at_each_request(
    server: LiveServer, path: str
) -> None:
    sent = headers("sk-bots", **{"X-Priority": "urgent"})
    with WsClient(server.url, path, headers=sent) as client:
        for _ in range(2):
            error = ask(client, path, {})["error"]
            assert (error["code"], error["param"]) == ("invalid_header", "x-priority")


def ask(client: WsClient, path: str, fields: dict[str, Any]) -> dict[str, Any]:
    """One request over a socket, up to its end."""
    if path == "/v1/responses":
        client.say(type="response.create", model="chat-ok", input="hi", store=False, **fields)
        ends = ("response.completed", "error")
    else:
        client.say(type="chat.request", model="chat-ok", messages=MESSAGES, **fields)
        ends = ("chat.done", "chat.error")
    while (frame := client.hear())["type"] not in ends:
        pass
    return frame


def test_the_line_is_seen_by_lane_key_and_client(server: LiveServer) -> None:
    lane = {"X-Serving-Lane": "background"}
    with held(server, "a"), held(server, "b", **lane), held(server, "b", **lane):
        seen = line_of(server, "chat-held")
        metrics = httpx.get(f"{server.url}/metrics", headers=headers("sk-bots")).text
    rows = {
        (one["lane"], one["tenant"], one["key"], one["client"]): (one["running"], one["waiting"])
        for one in seen["clients"]
    }
    who = ("fleet", "bots")
    assert rows == {("interactive", *who, "a"): (1, 0), ("background", *who, "b"): (2, 0)}
    running = {one["lane"]: one["running"] for one in seen["lanes"]}
    assert running == {"interactive": 1, "agent": 0, "background": 2}
    (key,) = seen["keys"]
    assert (key["tenant"], key["key"], key["running"]) == (*who, 3)
    assert (seen["running"], seen["waiting"], seen["oldest_s"]) == (3, 0, 0.0)
    level = 'opta_lmx_requests_running{lane="background",model="chat-held"} 2.0'
    assert level in metrics.splitlines()
    assert 'opta_lmx_queue_age_seconds{lane="agent",model="chat-held"} 0.0' in metrics.splitlines()
    assert "bots" not in metrics
    idle = line_of(server, "chat-held")
    assert (idle["running"], idle["clients"], idle["keys"]) == (0, [], [])


def test_who_waits_is_seen_with_the_age_of_the_oldest(tmp_path: Path) -> None:
    with sim_server(tmp_path, SCRIPTS, slots=1, access={"keys": KEYS}) as server:
        with held(server, "a"):
            sent = headers("sk-jobs", **{"X-Client-ID": "waits"})
            body = {"model": "chat-held", "messages": MESSAGES, "stream": True}
            url = f"{server.url}/v1/chat/completions"
            with httpx.stream("POST", url, json=body, headers=sent, timeout=30):
                wait_until(lambda: line_of(server, "chat-held")["oldest_s"] > 0.05)
                seen = line_of(server, "chat-held")
        assert (seen["running"], seen["waiting"]) == (1, 1)
        (row,) = [one for one in seen["clients"] if one["client"] == "waits"]
        assert (row["lane"], row["key"], row["waiting"]) == ("background", "jobs", 1)
        assert row["oldest_s"] == seen["oldest_s"]
        lanes = {one["lane"]: one["oldest_s"] > 0 for one in seen["lanes"]}
        assert lanes == {"interactive": False, "agent": False, "background": True}


def test_a_stream_that_waits_is_told_where_it_stands(tmp_path: Path) -> None:
    options = {"server": {"keepalive_s": 1}, "access": {"keys": KEYS}}
    with sim_server(tmp_path, SCRIPTS, slots=1, **options) as server:
        with held(server, "a"):
            url = f"{server.url}/v1/chat/completions"
            body = {"model": "chat-held", "messages": MESSAGES, "stream": True}
            with httpx.stream(
                "POST", url, json=body, headers=headers("sk-jobs"), timeout=30
            ) as own:
                lines = (line for line in own.iter_lines() if line.startswith("data: {"))
                chunks = (json.loads(line.removeprefix("data: ")) for line in lines)
                queue = next(chunk["x_opta"]["queue"] for chunk in chunks if "x_opta" in chunk)
            with WsClient(server.url, headers=headers("sk-jobs")) as client:
                client.ask("w", "chat-held")
                alive = client.until("w", "chat.keepalive")
        assert set(queue) == set(alive["queue"]) == {"position", "estimate_s"}
        assert queue["position"] >= 0
        assert queue["estimate_s"] > 0


def test_the_keys_are_seen_by_name(server: LiveServer) -> None:
    reply = httpx.get(f"{server.url}/admin/keys", headers=headers("sk-jobs"))
    assert "sk-" not in reply.text
    shown = {one["name"]: one for one in reply.json()["data"]}
    assert list(shown) == ["key-1", "bots", "jobs"]
    bots = shown["bots"]
    assert {name: bots[name] for name in ("id", "state", "source", "expires_ms", "models")} == {
        "id": None,
        "state": "active",
        "source": "config",
        "expires_ms": None,
        "models": None,
    }
    assert (bots["tenant"], bots["lane"]) == ("fleet", "interactive")
    assert (bots["weight"], bots["max_running"], bots["minute"]) == (2.5, 3, None)
    assert bots["budgets"] == dict.fromkeys(Budgets.__struct_fields__)
    assert (shown["jobs"]["lane"], shown["jobs"]["budgets"]["prompt_tokens"]) == ("background", 900)


def line_of(server: LiveServer, model: str) -> dict[str, Any]:
    reply = httpx.get(f"{server.url}/admin/queue", headers=headers("sk-bots"))
    (found,) = [one for one in reply.json()["models"] if one["id"] == model]
    return found


def test_the_cli_uses_a_named_key(tmp_path: Path, server: LiveServer) -> None:
    from opta_lmx.cli.session import key_for, open_session

    file = tmp_path / "config.toml"
    port = int(server.url.rpartition(":")[2])
    file.write_text(f"server.port = {port}\naccess.keys = {keys_toml()}\n")
    session = open_session(file)
    assert key_for(session, None) == "sk-bots"
    assert key_for(session, "http://127.0.0.1:9") is None


def keys_toml() -> str:
    return (
        "["
        + ", ".join(
            "{" + ", ".join(f"{k} = {json.dumps(v)}" for k, v in key.items()) + "}" for key in KEYS
        )
        + "]"
    )


@contextlib.contextmanager
def held(server: LiveServer, client: str, **more: str) -> Iterator[None]:
    """One running request of a client."""
    sent = headers("sk-bots", **{"X-Client-ID": client}, **more)
    body = {"model": "chat-held", "messages": MESSAGES, "stream": True}
    before = server.status("chat-held").get("running", 0)
    url = f"{server.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, headers=sent, timeout=30) as running:
        wait_until(lambda: server.status("chat-held")["running"] > before)
        yield
        running.close()
    wait_until(lambda: server.status("chat-held")["running"] == before)
