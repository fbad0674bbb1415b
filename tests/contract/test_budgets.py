"""Token budgets of keys, exact to one token on every surface, before any header is sent."""

import itertools
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from tests.contract.failures import SURFACES, Surface
from tests.support.server import LiveServer, sim_server
from tests.support.waiting import wait_until
from tests.support.websocket import WsClient

LIMIT = 200
FIRST = 73
"""Tokens of the request that comes before, within the same minute."""
CAP = 3
SCRIPTS: dict[str, dict[str, Any]] = {
    "chat-ok": {"reply": "one two three four five"},
    "chat-held": {"reply": "word " * 4000, "step_ms": 5},
    "embedding-ok": {"kind": "embedding"},
    "rerank-ok": {"kind": "rerank"},
}
# Every byte is a token of the scripted models; this is what stands around the prompt's text.
AROUND = {
    "/v1/completions": 0,
    "/v1/embeddings": 0,
    "/api/embed": 0,
    "/api/embeddings": 0,
    "/v1/rerank": len("q"),
    "/v2/rerank": len("q"),
}
TURN = len("user: \n")
PROMPT_FIELDS = {
    "/v1/chat/completions": "messages",
    "/v1/completions": "prompt",
    "/v1/responses": "input",
    "/v1/embeddings": "input",
    "/v1/rerank": "documents",
    "/v2/rerank": "documents",
}
"""Of the surfaces whose errors have a place for it."""


class Way(NamedTuple):
    """A surface, streamed or not, over HTTP or a WebSocket."""

    surface: Surface
    stream: bool
    socket: bool

    def __str__(self) -> str:
        how = "socket" if self.socket else "stream" if self.stream else "plain"
        return f"{self.surface.path}-{how}"


class Reply(NamedTuple):
    """What came of a request; `error` is None where it was answered."""

    status: int
    message: str = ""
    code: str | None = None
    param: str | None = None
    retry_after: int | None = None
    text: str = ""


COUNTS = [surface for surface in SURFACES if not surface.generates]
CALLS = [
    surface for surface in SURFACES if surface.generates and surface.path != "/v1/responses/compact"
]
WAYS = [
    *(
        Way(one, stream, False)
        for one in CALLS
        for stream in ((False, True) if one.stream_error else (False,))
    ),
    *(
        Way(one, True, True)
        for one in CALLS
        if one.path in ("/v1/chat/completions", "/v1/responses")
    ),
]
WAYS_THAT_WRITE = [way for way in WAYS if way.surface.kind == "chat"]
OFFSETS = (-1, 0, 1)


WATCHING = {"scopes": ["inference", "admin", "metrics"]}


def key_of(kind: str, way: object, offset: object = 0) -> str:
    """The key of one test alone, so that no other takes from its budget."""
    return f"sk-{kind}-{way}-{offset}".replace("/", ".")


def keys() -> list[dict[str, Any]]:
    """All of them."""
    bounds = {"request": {"prompt_tokens": LIMIT}, "minute": {"prompt_tokens_per_minute": LIMIT}}
    made = [
        {"key": key_of(kind, way, offset), **bound}
        for (kind, bound), way, offset in itertools.product(bounds.items(), WAYS, OFFSETS)
    ]
    made += [{"key": key_of("cap", way), "max_tokens": CAP} for way in WAYS_THAT_WRITE]
    made += [{"key": "sk-counts", "prompt_tokens": 1, "prompt_tokens_per_minute": 1}]
    made += [{"key": "sk-compact", "max_tokens": CAP}]
    made += [
        {
            "key": f"sk-own-{place}",
            **WATCHING,
            "prompt_tokens": LIMIT,
            "prompt_tokens_per_minute": LIMIT,
        }
        for place in range(9)
    ]
    return [{"name": f"n{place}", **key} for place, key in enumerate(made)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    home = tmp_path_factory.mktemp("home")
    with sim_server(home, SCRIPTS, slots=1, access={"keys": keys()}) as live:
        yield live


def text_of(way: Way, tokens: int) -> str:
    """A text that makes a prompt of so many tokens."""
    return "x" * (tokens - AROUND.get(way.surface.path, TURN))


def ask(
    server: LiveServer, way: Way, key: str, tokens: int, model: str = "ok", **fields: Any
) -> Reply:
    if way.socket:
        return over_socket(server, way, key, text_of(way, tokens), fields)
    body = way.surface.request(model, text_of(way, tokens), stream=way.stream)
    reply = httpx.post(
        server.url + way.surface.path,
        json={**body, **fields},
        headers={"Authorization": f"Bearer {key}"},
        timeout=30,
    )
    if reply.status_code == 200:
        if way.stream and way.surface.stream_error is not None:
            assert way.surface.stream_error(reply.text) is None
        return Reply(200, text=reply.text)
    told = reply.json()
    error = told["error"] if isinstance(told["error"], dict) else {}
    seconds = reply.headers.get("retry-after")
    return Reply(
        reply.status_code,
        way.surface.error(told).message,
        error.get("code"),
        error.get("param"),
        None if seconds is None else int(seconds),
    )


def over_socket(server: LiveServer, way: Way, key: str, text: str, fields: dict[str, Any]) -> Reply:
    chat = way.surface.path == "/v1/chat/completions"
    path = "/v1/chat/stream" if chat else way.surface.path
    body = {**way.surface.request("ok", text, stream=True), **fields}
    kind = "chat.request" if chat else "response.create"
    ends = (
        ("chat.done", "chat.error")
        if chat
        else ("response.completed", "response.incomplete", "error")
    )
    with WsClient(server.url, path, headers={"Authorization": f"Bearer {key}"}) as client:
        client.say(type=kind, **body)
        heard = [client.hear()]
        while heard[-1]["type"] not in ends:
            heard.append(client.hear())
    error = heard[-1].get("error")
    if error is None:
        return Reply(200, text=str(heard))
    # Nothing of an answer came first: only that the request was taken.
    assert [frame["type"] for frame in heard[:-1]] in ([], ["chat.accepted"])
    status = {"invalid_request_error": 400}.get(error["type"], 429)
    return Reply(status, error["message"], error["code"], error["param"], error.get("retry_after"))


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_request_is_bounded_to_the_token(server: LiveServer, way: Way, offset: int) -> None:
    reply = ask(server, way, key_of("request", way, offset), LIMIT + offset)
    if offset <= 0:
        assert reply.status == 200, reply
        return
    assert reply.status == 400
    assert f"{LIMIT + 1} tokens" in reply.message
    assert f"allows {LIMIT} a request" in reply.message
    assert reply.retry_after is None
    if param := PROMPT_FIELDS.get(way.surface.path):
        assert (reply.code, reply.param) == ("prompt_budget_exceeded", param)


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_minute_is_bounded_to_the_token(server: LiveServer, way: Way, offset: int) -> None:
    key = key_of("minute", way, offset)
    assert ask(server, way, key, FIRST).status == 200
    reply = ask(server, way, key, LIMIT - FIRST + offset)
    if offset <= 0:
        assert reply.status == 200, reply
        return
    assert reply.status == 429
    assert f"{LIMIT - FIRST + 1} tokens" in reply.message
    assert f"allows {LIMIT} a minute and has used {FIRST}" in reply.message
    assert reply.retry_after is not None
    assert 30 <= reply.retry_after <= 60
    if way.surface.path in PROMPT_FIELDS:
        assert reply.code == "token_rate_exceeded"
    # What was refused took nothing: all that is left is still there.
    assert ask(server, way, key, LIMIT - FIRST).status == 200


LIMIT_FIELDS = {
    "/v1/chat/completions": "max_tokens",
    "/v1/completions": "max_tokens",
    "/v1/responses": "max_output_tokens",
    "/v1/messages": "max_tokens",
}


def longest(way: Way, tokens: int) -> dict[str, Any]:
    """Fields that ask for an answer of at most so many tokens."""
    field = LIMIT_FIELDS.get(way.surface.path)
    return {"options": {"num_predict": tokens}} if field is None else {field: tokens}


@pytest.mark.parametrize("way", WAYS_THAT_WRITE, ids=str)
def test_an_answer_is_capped(server: LiveServer, way: Way) -> None:
    key = key_of("cap", way)
    if way.surface.path != "/v1/messages":  # which always says how long the answer may be
        silent = ask(server, way, key, 50)
        assert silent.status == 200, silent
        assert "three" in silent.text
        assert "four" not in silent.text
    assert ask(server, way, key, 50, **longest(way, CAP)).status == 200
    reply = ask(server, way, key, 50, **longest(way, CAP + 1))
    assert reply.status == 400
    assert f"{CAP + 1} tokens; this key allows {CAP}" in reply.message
    if way.surface.path in PROMPT_FIELDS:
        assert (reply.code, reply.param) == (
            "answer_budget_exceeded",
            LIMIT_FIELDS[way.surface.path],
        )


def test_the_newer_name_of_the_limit_is_told(server: LiveServer) -> None:
    way = WAYS_THAT_WRITE[0]
    reply = ask(server, way, key_of("cap", way), 50, max_completion_tokens=CAP + 1)
    assert (reply.status, reply.param) == (400, "max_completion_tokens")


@pytest.mark.parametrize("surface", COUNTS, ids=lambda surface: surface.path)
def test_counting_costs_nothing(server: LiveServer, surface: Surface) -> None:
    way = Way(surface, stream=False, socket=False)
    for _ in range(3):
        assert ask(server, way, "sk-counts", LIMIT).status == 200


def test_a_summary_gives_way_to_the_cap(server: LiveServer) -> None:
    surface = next(one for one in SURFACES if one.path == "/v1/responses/compact")
    reply = ask(server, Way(surface, stream=False, socket=False), "sk-compact", 1000)
    assert reply.status == 200, reply


def own(place: int) -> dict[str, str]:
    return {"Authorization": f"Bearer sk-own-{place}"}


def test_several_prompts_count_together(server: LiveServer) -> None:
    def complete(*lengths: int) -> httpx.Response:
        body = {"model": "chat-ok", "prompt": ["x" * length for length in lengths]}
        return httpx.post(f"{server.url}/v1/completions", json=body, headers=own(0), timeout=30)

    refused = complete(100, 60, 41)
    assert refused.status_code == 400
    assert "201 tokens" in refused.json()["error"]["message"]
    assert complete(100, 60, 39).status_code == 200
    assert complete(1).status_code == 200
    assert complete(1).status_code == 429


def test_several_answers_to_one_prompt_cost_it_once(server: LiveServer) -> None:
    body = {"model": "chat-ok", "n": 1, "messages": [{"role": "user", "content": "x" * 93}]}
    url = f"{server.url}/v1/chat/completions"
    for n, status in ((1, 200), (3, 200), (1, 429)):
        reply = httpx.post(url, json={**body, "n": n}, headers=own(1), timeout=30)
        assert reply.status_code == status, n


def test_many_inputs_count_together(server: LiveServer) -> None:
    def embed(*lengths: int) -> httpx.Response:
        body = {"model": "embedding-ok", "input": ["x" * length for length in lengths]}
        return httpx.post(f"{server.url}/v1/embeddings", json=body, headers=own(2), timeout=30)

    refused = embed(120, 81)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input")
    made = embed(120, 80)
    assert made.json()["usage"]["total_tokens"] == LIMIT
    assert embed(1).status_code == 429


def test_what_is_cut_off_costs_nothing(server: LiveServer) -> None:
    body = {"model": "rerank-ok", "query": "q", "documents": ["x" * 500], "max_tokens_per_doc": 199}
    url = f"{server.url}/v2/rerank"
    for status in (200, 429):
        reply = httpx.post(url, json=body, headers=own(3), timeout=30)
        assert reply.status_code == status, reply.text


def test_a_request_that_never_ran_gives_its_tokens_back(server: LiveServer) -> None:
    url = f"{server.url}/v1/chat/completions"
    held = {"model": "chat-held", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    whole = {**held, "messages": [{"role": "user", "content": "x" * (LIMIT - TURN)}]}
    least = {**held, "messages": [{"role": "user", "content": ""}], "stream": False}
    with httpx.stream("POST", url, json=held, headers=own(4), timeout=30) as hog:
        wait_until(lambda: server.status("chat-held").get("running") == 1)
        with httpx.stream("POST", url, json=whole, headers=own(5), timeout=30) as waiting:
            assert waiting.status_code == 200
            wait_until(lambda: server.status("chat-held")["waiting"] == 1)
            refused = httpx.post(url, json={**least, "model": "chat-ok"}, headers=own(5))
            assert refused.status_code == 429
        wait_until(lambda: server.status("chat-held")["waiting"] == 0)
        given = httpx.post(url, json={**whole, "model": "chat-ok"}, headers=own(5), timeout=30)
        assert given.status_code == 200
        hog.close()
    wait_until(lambda: server.status("chat-held")["running"] == 0)
    used = httpx.post(url, json={**whole, "model": "chat-ok"}, headers=own(4), timeout=30)
    assert used.status_code == 429, "what ran is paid for, though its client left"


class Hand:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float) -> None:
        self.now = now

    def monotonic(self) -> float:
        return self.now


def test_the_wait_that_is_told_is_long_enough_and_no_longer(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgeting = server.app.serving.budgeting
    hand = Hand(budgeting.clock.monotonic() + 1000.0)
    monkeypatch.setattr(budgeting, "clock", hand)
    way = WAYS[0]
    assert ask(server, way, "sk-own-6", 120).status == 200
    hand.now += 20.25
    assert ask(server, way, "sk-own-6", 80).status == 200
    hand.now += 1
    for tokens, wait_s in ((120, 39), (121, 59)):
        refused = ask(server, way, "sk-own-6", tokens)
        assert (refused.status, refused.retry_after) == (429, wait_s)
    hand.now += 38
    assert ask(server, way, "sk-own-6", 120).status == 429
    hand.now += 1
    assert ask(server, way, "sk-own-6", 120).status == 200


def test_at_once_no_more_is_admitted_than_one_after_another(server: LiveServer) -> None:
    embed = next(way for way in WAYS if way.surface.path == "/v1/embeddings")
    replies: list[int] = []

    def call() -> None:
        replies.append(ask(server, embed, "sk-own-7", 30).status)

    threads = [threading.Thread(target=call) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(replies) == [200] * (LIMIT // 30) + [429] * (12 - LIMIT // 30)


def test_what_is_left_of_a_minute_is_seen(server: LiveServer) -> None:
    def seen() -> dict[str, Any]:
        reply = httpx.get(f"{server.url}/admin/keys", headers=own(8))
        assert "sk-" not in reply.text
        return reply.json()["data"][-1]

    fresh = seen()
    assert fresh["budgets"] == {
        "prompt_tokens": LIMIT,
        "prompt_tokens_per_minute": LIMIT,
        "max_tokens": None,
        "kv_bytes": None,
    }
    assert fresh["minute"] == {"limit": LIMIT, "remaining": LIMIT, "reset_s": 0.0}
    assert ask(server, WAYS[0], "sk-own-8", 150).status == 200
    assert ask(server, WAYS[0], "sk-own-8", 51).status == 429
    used = seen()["minute"]
    assert (used["limit"], used["remaining"]) == (LIMIT, LIMIT - 150)
    assert 0 < used["reset_s"] <= 60


def test_refusals_are_counted_by_reason(server: LiveServer) -> None:
    counted = httpx.get(f"{server.url}/metrics", headers=own(0)).text
    for reason in ("prompt_budget_exceeded", "token_rate_exceeded", "answer_budget_exceeded"):
        assert f'opta_lmx_admission_rejections_total{{reason="{reason}"}}' in counted
