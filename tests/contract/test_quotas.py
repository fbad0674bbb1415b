"""Quotas on every surface: what is charged, refused, given back and told; and the ledger of it."""

import csv
import io
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from opta_lmx.api import rules
from opta_lmx.core.principal import Scope
from opta_lmx.store.database import unavailable
from tests.contract.failures import SURFACES, Surface
from tests.support.live_routes import Way, live_ways
from tests.support.server import LiveServer, sim_server
from tests.support.waiting import wait_until
from tests.support.websocket import WsClient

SCRIPTS: dict[str, dict[str, Any]] = {
    "chat-ok": {"reply": "one two three four five"},
    "chat-held": {"reply": "word " * 4000, "step_ms": 5},
    "chat-small": {"context": 64},
    "embedding-ok": {"kind": "embedding"},
    "rerank-ok": {"kind": "rerank"},
}
OPERATOR = "sk-operator"
NO_MODEL = {
    ("POST", "/api/show"),
    ("POST", "/v1/ws/tickets"),
    ("POST", "/v1/responses/{response_id}/cancel"),
}
"""Routes for the scope `inference` that change something and call no model."""
SOCKETS = {"/v1/chat/stream": "/v1/chat/completions", "/v1/responses": "/v1/responses"}
"""WebSockets, and the surface whose bodies they take."""


class Keys:
    """Every test asks by a key of its own; all of them are configured before."""

    def __init__(self) -> None:
        self.quotas: list[dict[str, Any]] = []
        self.keys: list[dict[str, Any]] = []

    def add(self, name: str, tenant: str = "default", **quotas: int) -> None:
        scopes = ["inference"]
        self.keys.append({"name": name, "key": f"sk-{name}", "tenant": tenant, "scopes": scopes})
        if quotas:
            self.quotas.append({"name": name, **quotas})


def name_of(surface: Surface, way: str = "") -> str:
    return f"s{way}{surface.path.replace('/', '.')}"


ALL = Keys()
for one in SURFACES:
    ALL.add(name_of(one), requests_per_minute=2, requests_per_day=1000)
    ALL.add(name_of(one, "p"), prompt_tokens_per_day=500)
    ALL.add(name_of(one, "c"), concurrency=1)
    ALL.add(name_of(one, "u"), tenant="used")
for path in SOCKETS:
    ALL.add(f"ws{path.replace('/', '.')}", requests_per_minute=1)
    ALL.add(f"wsu{path.replace('/', '.')}", tenant="used")
ALL.add("many", tenant="crowd", requests_per_minute=50)
ALL.add("many-too", tenant="crowd")
ALL.add("output", output_tokens_per_minute=12)
ALL.add("whole", prompt_tokens_per_minute=40)
ALL.add("back", requests_per_minute=3, prompt_tokens_per_minute=100)
ALL.add("flight", concurrency=2)
ALL.add("sdk", requests_per_minute=100, prompt_tokens_per_day=4000, output_tokens_per_minute=700)
ALL.add("free")
ALL.add("changed")
ALL.add("broken", requests_per_day=100)
ALL.add("agent", requests_per_day=100, agent_runs_per_day=2)
TENANTS = [{"name": "crowd", "requests_per_day": 41}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    home = tmp_path_factory.mktemp("home")
    keys = [*ALL.keys, {"name": "operator", "key": OPERATOR, "scopes": [*Scope]}]
    quotas = {"keys": ALL.quotas, "tenants": TENANTS}
    with sim_server(home, SCRIPTS, slots=4, access={"keys": keys}, quotas=quotas) as live:
        yield live


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {name if name == OPERATOR else f'sk-{name}'}"}


def ask(
    server: LiveServer,
    surface: Surface,
    name: str,
    text: str = "hello",
    model: str = "ok",
    *,
    stream: bool = False,
    **fields: Any,
) -> httpx.Response:
    body = {**surface.request(model, text, stream=stream), **fields}
    return httpx.post(server.url + surface.path, json=body, headers=bearer(name), timeout=30)


def chat(server: LiveServer, name: str, text: str = "hello", **fields: Any) -> httpx.Response:
    return ask(server, SURFACES[0], name, text, **fields)


def standing(server: LiveServer, path: str) -> dict[tuple[str, str], int]:
    """What was used of quotas, by resource and window."""
    reply = httpx.get(f"{server.url}/admin/quotas/{path}", headers=bearer(OPERATOR))
    assert reply.status_code == 200, reply.text
    return {
        (one["resource"], one["window"]): one["limit"] - one["remaining"]
        for one in reply.json()["standing"]
    }


def over_socket(server: LiveServer, path: str, name: str) -> dict[str, Any]:
    """The last frame of one call over a WebSocket."""
    surface = next(one for one in SURFACES if one.path == SOCKETS[path])
    kind = "chat.request" if path == "/v1/chat/stream" else "response.create"
    ends = ("chat.done", "chat.error", "response.completed", "error")
    with WsClient(server.url, path, headers=bearer(name)) as client:
        client.say(type=kind, **surface.request("ok", "hello", stream=True))
        heard = client.hear()
        while heard["type"] not in ends:
            heard = client.hear()
    return heard


def test_every_way_to_a_model_is_among_the_surfaces(server: LiveServer) -> None:
    """A new route that calls a model must stand in `SURFACES` or `SOCKETS`, or not call one."""
    paths = {surface.path for surface in SURFACES}

    def is_known(way: Way) -> bool:
        if way.kind == "websocket":
            return way.path in SOCKETS
        return way.path in paths or (way.method, way.path) in NO_MODEL

    calling = [
        way
        for way in set(live_ways(server.app.http.routes))
        if rules.scope_of(way.kind, way.method, way.asked)
        in (Scope.INFERENCE, Scope.AGENTS, Scope.SKILLS)
        and (way.kind == "websocket" or way.method not in ("GET", "HEAD", "DELETE"))
    ]
    assert len(calling) >= len(SURFACES)
    assert [way for way in calling if not is_known(way)] == []


@pytest.mark.parametrize("surface", SURFACES, ids=lambda one: one.path)
def test_every_surface_takes_one_request(server: LiveServer, surface: Surface) -> None:
    name = name_of(surface)
    streams = surface.stream_error is not None
    first = ask(server, surface, name, stream=streams)
    assert first.status_code == 200, first.text
    assert standing(server, f"keys/{name}")["requests", "minute"] == 1
    assert ask(server, surface, name).status_code == 200
    refused = ask(server, surface, name, stream=streams)
    assert refused.status_code == 429, refused.text
    assert "This key may use 2 requests a minute and has 0 left" in refused.text
    assert 1 <= int(refused.headers["retry-after"]) <= 61
    prefix = "anthropic" if surface.path.startswith("/v1/messages") else "x"
    told = [reply.headers for reply in (first, refused)]
    if prefix == "x":
        assert [one["x-ratelimit-remaining-requests"] for one in told] == ["1", "0"]
    else:
        assert [one["anthropic-ratelimit-requests-remaining"] for one in told] == ["1", "0"]


@pytest.mark.parametrize("path", SOCKETS)
def test_every_socket_takes_one_request(server: LiveServer, path: str) -> None:
    name = f"ws{path.replace('/', '.')}"
    assert over_socket(server, path, name)["type"] in ("chat.done", "response.completed")
    refused = over_socket(server, path, name)
    assert refused["error"]["code"] == "request_quota_exceeded"
    assert refused["error"]["retry_after"] >= 1


@pytest.mark.parametrize(
    "surface",
    [one for one in SURFACES if one.kind != "chat" or one.generates],
    ids=lambda o: o.path,
)
def test_every_surface_pays_for_its_prompts(server: LiveServer, surface: Surface) -> None:
    name = name_of(surface, "p")
    assert ask(server, surface, name, "x" * 50).status_code == 200
    used = standing(server, f"keys/{name}")["prompt_tokens", "day"]
    assert used >= 50
    refused = ask(server, surface, name, "x" * 600)
    assert (refused.status_code, "may use 500 a day" in refused.text) == (400, True), refused.text
    refused = ask(server, surface, name, "x" * (480 - used))
    if refused.status_code == 200:  # less stands around the text than is left
        refused = ask(server, surface, name, "x" * 100)
    assert refused.status_code == 429, refused.text
    assert "prompt tokens a day" in refused.text


@pytest.mark.parametrize("surface", SURFACES, ids=lambda one: one.path)
def test_one_after_another_is_one_at_a_time(server: LiveServer, surface: Surface) -> None:
    with httpx.Client(headers=bearer(name_of(surface, "c")), timeout=30) as client:
        for _ in range(12):
            body = surface.request("ok", "hello", stream=False)
            reply = client.post(server.url + surface.path, json=body)
            assert reply.status_code == 200, reply.text


def test_requests_in_flight_are_bounded_over_all_models(server: LiveServer) -> None:
    url = f"{server.url}/v1/chat/completions"
    held = SURFACES[0].request("held", "hi", stream=True)
    with (
        httpx.stream("POST", url, json=held, headers=bearer("flight"), timeout=30) as one,
        httpx.stream("POST", url, json=held, headers=bearer("flight"), timeout=30) as two,
    ):
        assert (one.status_code, two.status_code) == (200, 200)
        refused = chat(server, "flight")
        assert (refused.status_code, refused.json()["error"]["code"]) == (
            429,
            "concurrency_quota_exceeded",
        )
        assert refused.headers["retry-after"] == "1"
        one.close()
        wait_until(lambda: chat(server, "flight").status_code == 200)
        two.close()
    wait_until(lambda: server.status("chat-held")["running"] == 0)
    assert [chat(server, "flight").status_code for _ in range(3)] == [200] * 3


def test_thirty_two_at_once_get_exactly_what_there_is(server: LiveServer) -> None:
    gate = threading.Barrier(32)

    def call(number: int) -> int:
        gate.wait(20)
        some = [chat(server, "many" if number % 2 else "many-too", max_tokens=1) for _ in range(3)]
        assert {one.status_code for one in some} <= {200, 429}
        return sum(one.status_code == 200 for one in some)

    with ThreadPoolExecutor(32) as pool:
        admitted = sum(pool.map(call, range(32)))
    assert admitted == TENANTS[0]["requests_per_day"]
    assert standing(server, "tenants/crowd")["requests", "day"] == admitted
    refused = chat(server, "many-too")
    assert "This tenant may use 41 requests a day and has 0 left" in refused.text
    assert "many" not in refused.text


def test_answers_are_paid_for_afterwards(server: LiveServer) -> None:
    spent = 0
    while spent < 12:
        reply = chat(server, "output")
        assert reply.status_code == 200, (spent, reply.text)
        spent += reply.json()["usage"]["completion_tokens"]
        assert standing(server, "keys/output")["output_tokens", "minute"] == spent
        left = int(reply.headers["x-ratelimit-remaining-tokens"])
        assert left == max(0, 12 - spent)
    refused = chat(server, "output")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "token_quota_exceeded")
    assert "output tokens a minute" in refused.json()["error"]["message"]


def test_all_prompts_of_a_call_are_taken_or_none(server: LiveServer) -> None:
    def complete(*lengths: int) -> int:
        body = {"model": "chat-ok", "prompt": ["x" * length for length in lengths]}
        url = f"{server.url}/v1/completions"
        return httpx.post(url, json=body, headers=bearer("whole"), timeout=30).status_code

    assert complete(20, 21) == 400
    assert complete(10, 15) == 200
    assert complete(10, 6) == 429
    assert complete(10, 5) == 200
    assert standing(server, "keys/whole")["prompt_tokens", "minute"] == 40


def test_what_is_refused_later_is_given_back(server: LiveServer) -> None:
    def used() -> tuple[int, int]:
        found = standing(server, "keys/back")
        return found["requests", "minute"], found["prompt_tokens", "minute"]

    for fields, status in (
        ({"model": "small", "text": "x" * 90}, 400),
        ({"temperature": "hot"}, 400),
        ({"model": "nobody"}, 404),
        ({"text": "x" * 200}, 400),
        ({"max_tokens": 0}, 400),
    ):
        for _ in range(2):
            reply = chat(server, "back", **fields)
            assert reply.status_code == status, (fields, reply.text)
    assert used() == (0, 0)
    assert [chat(server, "back").status_code for _ in range(4)] == [200] * 3 + [429]


def test_who_leaves_the_line_pays_nothing(tmp_path: Path) -> None:
    keys = [{"name": name, "key": f"sk-{name}"} for name in ("hog", "back")]
    keys.append({"name": "operator", "key": OPERATOR, "scopes": [*Scope]})
    quotas = {"keys": [{"name": "back", "requests_per_day": 3, "prompt_tokens_per_day": 99}]}
    held = SURFACES[0].request("held", "hi", stream=True)
    with sim_server(tmp_path, SCRIPTS, slots=1, access={"keys": keys}, quotas=quotas) as server:
        url = f"{server.url}/v1/chat/completions"
        with httpx.stream("POST", url, json=held, headers=bearer("hog"), timeout=30) as hog:
            wait_until(lambda: server.status("chat-held").get("running") == 1)
            with httpx.stream("POST", url, json=held, headers=bearer("back"), timeout=30) as one:
                assert one.status_code == 200
                assert standing(server, "keys/back")["requests", "day"] == 1
                assert standing(server, "keys/back")["prompt_tokens", "day"] > 0
            wait_until(lambda: set(standing(server, "keys/back").values()) == {0})
            hog.close()
        with httpx.stream("POST", url, json=held, headers=bearer("back"), timeout=30) as ran:
            wait_until(lambda: server.status("chat-held").get("running") == 1)
            next(ran.iter_lines())
        wait_until(lambda: server.status("chat-held")["running"] == 0)
        assert standing(server, "keys/back")["requests", "day"] == 1, "what ran is paid for"


def test_the_official_clients_see_what_is_left(server: LiveServer) -> None:
    asked = [{"role": "user", "content": "hello"}]
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-sdk", max_retries=0) as client:
        whole = client.chat.completions.with_raw_response.create(
            model="chat-ok", messages=asked, max_tokens=5
        )
        assert whole.headers["x-ratelimit-limit-requests"] == "100"
        assert whole.headers["x-ratelimit-remaining-requests"] == "99"
        assert re.fullmatch(r"1m0s|\d+s", whole.headers["x-ratelimit-reset-requests"])
        assert whole.headers["x-ratelimit-limit-tokens"] == "700"
        with client.chat.completions.with_streaming_response.create(
            model="chat-ok", messages=asked, max_tokens=5, stream=True
        ) as stream:
            assert stream.headers["x-ratelimit-remaining-requests"] == "98"
            list(stream.iter_lines())
    with anthropic.Anthropic(base_url=server.url, api_key="sk-sdk", max_retries=0) as client:
        raw = client.messages.with_raw_response.create(
            model="chat-ok", messages=asked, max_tokens=5
        )
        headers, usage = raw.headers, raw.parse().usage
    assert not any(name.startswith("x-ratelimit") for name in headers)
    assert headers["anthropic-ratelimit-requests-remaining"] == "97"
    assert headers["anthropic-ratelimit-input-tokens-limit"] == "4000"
    assert (
        int(headers["anthropic-ratelimit-input-tokens-remaining"]) == 4000 - 3 * usage.input_tokens
    )
    assert headers["anthropic-ratelimit-output-tokens-limit"] == "700"
    reset = datetime.fromisoformat(headers["anthropic-ratelimit-requests-reset"])
    assert 0 < (reset - datetime.now(UTC)).total_seconds() <= 62


def test_nobody_else_is_told_anything(server: LiveServer) -> None:
    for surface in SURFACES:
        reply = ask(server, surface, "free")
        assert reply.status_code == 200
        assert [name for name in reply.headers if "ratelimit" in name] == []
    models = httpx.get(f"{server.url}/v1/models", headers=bearer("sdk"))
    assert [name for name in models.headers if "ratelimit" in name] == []


def test_quotas_change_while_the_server_runs(server: LiveServer) -> None:
    url = f"{server.url}/admin/quotas/keys/changed"
    assert httpx.get(url, headers=bearer(OPERATOR)).status_code == 404
    assert "x-ratelimit-limit-requests" not in chat(server, "changed").headers
    put = httpx.put(url, json={"requests_per_day": 1}, headers=bearer(OPERATOR))
    assert (put.status_code, put.json()["source"]) == (200, "stored")
    assert [chat(server, "changed").status_code for _ in range(2)] == [200, 429]
    httpx.put(url, json={"requests_per_day": 2}, headers=bearer(OPERATOR))
    assert [chat(server, "changed").status_code for _ in range(2)] == [200, 429]
    assert httpx.delete(url, headers=bearer(OPERATOR)).json()["deleted"] is True
    assert httpx.delete(url, headers=bearer(OPERATOR)).status_code == 404
    assert [chat(server, "changed").status_code for _ in range(3)] == [200] * 3
    for wrong in ({}, {"requests_per_day": 0}, {"per_day": 1}, {"concurrency": "2"}):
        assert httpx.put(url, json=wrong, headers=bearer(OPERATOR)).status_code == 400
    assert httpx.put(url, json={"concurrency": 1}, headers=bearer("changed")).status_code == 403
    listed = httpx.get(f"{server.url}/admin/quotas", headers=bearer(OPERATOR)).json()["data"]
    assert len(listed) == len(ALL.quotas) + len(TENANTS)
    assert "sk-" not in str(listed)


def test_without_its_database_a_quota_is_closed_and_others_go_on(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(server.app.database, "failure", unavailable("the disk is full"))
        refused = chat(server, "broken")
        assert (refused.status_code, refused.json()["error"]["code"]) == (
            503,
            "quota_store_unavailable",
        )
        assert int(refused.headers["retry-after"]) >= 1
        assert chat(server, "free").status_code == 200
    assert chat(server, "broken").status_code == 200


def used_by(reply: httpx.Response, surface: Surface) -> tuple[int, int, int]:
    """Prompt, cached and output tokens as the answer itself tells them."""
    body = reply.json()
    if surface.path.startswith("/api/"):
        return body.get("prompt_eval_count", 0), 0, body.get("eval_count", 0)
    usage = body.get("usage") or {}
    if surface.path == "/v1/messages":
        cached = usage["cache_read_input_tokens"]
        return usage["input_tokens"] + cached, cached, usage["output_tokens"]
    if surface.path.startswith("/v1/responses"):
        cached = usage.get("input_tokens_details", {}).get("cached_tokens", 0)
        return usage.get("input_tokens", 0), cached, usage.get("output_tokens", 0)
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return usage.get("prompt_tokens", 0), cached, usage.get("completion_tokens", 0)


def report(
    server: LiveServer, name: str = OPERATOR, path: str = "/admin/usage", **words: str
) -> Any:
    reply = httpx.get(server.url + path, params=words, headers=bearer(name))
    assert reply.status_code == 200, reply.text
    return reply.json()["data"] if words.get("format", "json") == "json" else reply.text


def test_the_ledger_is_what_the_answers_said(server: LiveServer) -> None:
    for surface in SURFACES:
        name = name_of(surface, "u")
        told = [ask(server, surface, name, text) for text in ("hello", "hello there", "x" * 70)]
        assert {one.status_code for one in told} == {200}
        (row,) = report(server, key=name)
        found = [used_by(one, surface) for one in told]
        sums = [sum(numbers) for numbers in zip(*found, strict=True)]
        assert (row["requests"], row["errors"], row["tenant"]) == (3, 0, "used")
        if surface.path in ("/v1/rerank", "/v2/rerank", "/api/embeddings"):
            assert row["prompt_tokens"] > 3 * len("hello")  # these answers do not tell
            continue
        counted = [row["prompt_tokens"], row["cached_prompt_tokens"], row["output_tokens"]]
        if surface.path.startswith("/api/"):
            counted[1] = 0  # nor these what was cached
        assert counted == sums, surface.path
    for path in SOCKETS:
        name = f"wsu{path.replace('/', '.')}"
        done = over_socket(server, path, name)
        usage = done.get("usage") or done["response"]["usage"]
        (row,) = report(server, key=name)
        output = usage.get("completion_tokens", usage.get("output_tokens"))
        assert (row["requests"], row["output_tokens"]) == (1, output)
    (whole,) = report(server, tenant="used", group_by="tenant")
    each = report(server, tenant="used")
    assert whole["requests"] == 3 * len(SURFACES) + len(SOCKETS)
    assert whole["prompt_tokens"] == sum(row["prompt_tokens"] for row in each)


def test_an_owner_sees_its_own_use_alone(server: LiveServer) -> None:
    chat(server, "agent")
    mine = report(server, "agent", "/v1/usage")
    assert {(row["tenant"], row["key"]) for row in mine} == {("default", "agent")}
    for word in ("key", "tenant"):
        reply = httpx.get(f"{server.url}/v1/usage", params={word: "free"}, headers=bearer("agent"))
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, word)
    assert httpx.get(f"{server.url}/admin/usage", headers=bearer("agent")).status_code == 403


def test_use_is_exported_as_csv(server: LiveServer) -> None:
    chat(server, "agent")
    text = report(server, key="agent", format="csv", group_by="key,model")
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert (row["key"], row["model"]) == ("agent", "chat-ok")
    assert int(row["requests"]) >= 1
    for words in ({"format": "xml"}, {"from": "x"}, {"days": "3"}, {"group_by": "hour"}):
        reply = httpx.get(f"{server.url}/admin/usage", params=words, headers=bearer(OPERATOR))
        assert reply.status_code == 400, words


def test_errors_are_counted(server: LiveServer) -> None:
    before = sum(row["errors"] for row in report(server, key="free", model="chat-small"))
    assert chat(server, "free", "x" * 90, model="small").status_code == 400
    (row,) = report(server, key="free", model="chat-small")
    assert row["errors"] == before + 1
    assert (row["prompt_tokens"], row["output_tokens"]) == (0, 0)
