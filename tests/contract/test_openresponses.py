"""`/v1/responses` against the Open Responses schemas: the cases its compliance run makes, by hand.

Requests, answers and every event are held to the published schemas; the cases over WebSocket, of
compaction and of phases were written from the schemas alone.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.support.openresponses import (
    AMENDED,
    events_of,
    faults,
    fold,
    published,
    schemas,
    valid,
    valid_event,
)
from tests.support.server import LiveServer, sim_server
from tests.support.waiting import wait_until

Json = dict[str, Any]

CALL = '<tool_call> {"name": "get_weather", "arguments": {"location": "Oslo"}} </tool_call>'
SCRIPTS = {
    "plain": {"reply": "Ahoy there matey"},
    "caller": {"reply": f"Let me look. {CALL}"},
    "silent": {"reply": ""},
    "slow": {"reply": "word " * 400, "step_ms": 10},
    "silent-for-long": {"reply": "one", "step_ms": 1300},
    "dies": {"reply": "one two three four", "die_at_step": 3},
}
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a place.",
    "parameters": {
        "type": "object",
        "properties": {"location": {"type": "string"}},
        "required": ["location"],
    },
}
TERMINAL = ("response.completed", "response.incomplete", "response.failed", "error")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    limits = {"keepalive_s": 1.0}
    with sim_server(tmp_path_factory.mktemp("home"), SCRIPTS, server=limits) as live:
        yield live


@pytest.fixture
def http(server: LiveServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=20) as client:
        yield client


@pytest.fixture
def socket(server: LiveServer) -> Iterator[ClientConnection]:
    with connected(server) as client:
        yield client


def connected(server: LiveServer) -> ClientConnection:
    return connect(server.url.replace("http", "ws") + "/v1/responses", proxy=None)


def user(text: str) -> Json:
    return {"type": "message", "role": "user", "content": text}


def ask(model: str, *items: Json, **fields: Any) -> Json:
    body = {"model": model, "input": [*items], **fields}
    valid("CreateResponseBody", body)
    return body


def plain(http: httpx.Client, body: Json) -> Json:
    reply = http.post("/v1/responses", json=body)
    assert reply.status_code == 200, reply.text
    response = reply.json()
    valid("ResponseResource", response)
    return response


def streamed(http: httpx.Client, body: Json) -> list[Json]:
    reply = http.post("/v1/responses", json={**body, "stream": True})
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = events_of(reply.text)
    assert fold(events) == events[-1]["response"]
    return events


def turn(socket: ClientConnection, body: Json) -> list[Json]:
    """Send one event and read to the end of its answer; every frame is one valid event."""
    socket.send(json.dumps({"type": "response.create", **body}))
    events: list[Json] = []
    while not events or events[-1]["type"] not in TERMINAL:
        events.append(json.loads(socket.recv(timeout=20)))
    if events[-1]["type"] == "error":
        valid("WebSocketErrorEvent", events[-1])
        for event in events[:-1]:
            valid_event(event)
    else:
        assert fold(events) == events[-1]["response"]
    return events


def last(events: list[Json]) -> Json:
    assert "response" in events[-1], events[-1]
    return events[-1]["response"]


def text_of(response: Json) -> str:
    return "".join(
        part["text"]
        for item in response["output"]
        if item["type"] == "message"
        for part in item["content"]
    )


# ------------------------------------------------------------------------------- over HTTP


def test_basic_text(http: httpx.Client) -> None:
    response = plain(http, ask("plain", user("Say hello in three words.")))
    assert response["status"] == "completed"
    assert text_of(response).split() == ["Ahoy", "there", "matey"]
    assert response["completed_at"] >= response["created_at"]
    assert response["usage"]["total_tokens"] > 0


def test_streaming(http: httpx.Client) -> None:
    body = ask("plain", user("Count from 1 to 5."))
    response = last(streamed(http, body))
    assert response["status"] == "completed"
    assert text_of(response) == text_of(plain(http, body))


def test_system_prompt(http: httpx.Client) -> None:
    system = {"type": "message", "role": "system", "content": "Speak like a pirate."}
    response = plain(http, ask("plain", system, user("Say hello.")))
    assert response["output"]
    same = plain(http, ask("plain", user("Say hello."), instructions="Speak like a pirate."))
    assert response["usage"]["input_tokens"] == same["usage"]["input_tokens"]
    developer = {**system, "role": "developer"}
    same = plain(http, ask("plain", developer, user("Say hello.")))
    assert response["usage"]["input_tokens"] == same["usage"]["input_tokens"]


def test_tool_calling(http: httpx.Client) -> None:
    response = plain(http, ask("caller", user("How is Oslo?"), tools=[WEATHER]))
    message, call = response["output"]
    assert message["type"] == "message"
    assert (call["type"], call["name"], call["status"]) == (
        "function_call",
        "get_weather",
        "completed",
    )
    assert json.loads(call["arguments"]) == {"location": "Oslo"}


def test_tool_calling_streamed(http: httpx.Client) -> None:
    events = streamed(http, ask("caller", user("How is Oslo?"), tools=[WEATHER]))
    kinds = [event["type"] for event in events]
    assert "response.function_call_arguments.delta" in kinds
    assert "response.function_call_arguments.done" in kinds
    for kind in ("response.output_item.added", "response.output_item.done"):
        items = [event["item"]["type"] for event in events if event["type"] == kind]
        assert items == ["message", "function_call"]


def test_image_input_is_a_typed_refusal(http: httpx.Client) -> None:
    parts = [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
    ]
    body = ask("plain", {"type": "message", "role": "user", "content": parts})
    reply = http.post("/v1/responses", json=body)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["code"] == "unsupported_parameter"
    assert error["param"] == "input.0.content.1.type"
    assert "text only" in error["message"]


def test_multi_turn(http: httpx.Client) -> None:
    response = plain(
        http,
        ask(
            "plain",
            user("My name is Alice."),
            {"type": "message", "role": "assistant", "content": "Hello Alice!"},
            user("What is my name?"),
        ),
    )
    assert response["status"] == "completed"
    first = plain(http, ask("plain", user("My name is Alice.")))
    follow = ask("plain", user("What is my name?"), previous_response_id=first["id"])
    second = plain(http, follow)
    assert second["previous_response_id"] == first["id"]
    explicit = plain(
        http, ask("plain", user("My name is Alice."), *first["output"], user("What is my name?"))
    )
    assert second["usage"]["input_tokens"] == explicit["usage"]["input_tokens"]


def test_a_whole_tool_round(http: httpx.Client) -> None:
    question = user("How is Oslo?")
    first = plain(http, ask("caller", question, tools=[WEATHER]))
    call = first["output"][-1]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
    chained = plain(http, ask("plain", output, previous_response_id=first["id"], tools=[WEATHER]))
    explicit = plain(http, ask("plain", question, *first["output"], output, tools=[WEATHER]))
    assert chained["usage"]["input_tokens"] == explicit["usage"]["input_tokens"]


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_choice": "none", "tools": [WEATHER]},
        {"tool_choice": {"type": "function", "name": "get_weather"}, "tools": [WEATHER]},
        {
            "tool_choice": {
                "type": "allowed_tools",
                "tools": [{"type": "function", "name": "get_weather"}],
                "mode": "auto",
            },
            "tools": [WEATHER],
        },
        {"text": {"format": {"type": "text"}, "verbosity": "medium"}},
        {"reasoning": {"effort": "low", "summary": "auto"}},
        {"metadata": {"run": "7"}, "safety_identifier": "u", "prompt_cache_key": "s:0"},
        {"temperature": 0, "top_p": 0.5, "presence_penalty": 1, "frequency_penalty": -1.5},
        {"truncation": "auto", "parallel_tool_calls": False, "max_tool_calls": 3},
        {"max_output_tokens": 16, "store": False, "service_tier": "auto"},
        {"include": ["message.output_text.logprobs"], "top_logprobs": 1},
        {"include": ["reasoning.encrypted_content"]},
    ],
    ids="+".join,
)
def test_every_field_comes_back_in_a_valid_response(http: httpx.Client, fields: Json) -> None:
    body = ask("plain", user("hi"), **fields)
    response = plain(http, body)
    for name in response.keys() & (fields.keys() - {"text", "tools", "service_tier"}):
        assert response[name] == fields[name]
    streamed(http, body)


# -------------------------------------------------------------------------- over WebSocket


def test_socket_basic_text(socket: ClientConnection) -> None:
    events = turn(socket, ask("plain", user("hello")))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert text_of(last(events)).split() == ["Ahoy", "there", "matey"]


def test_socket_takes_one_turn_after_another(socket: ClientConnection) -> None:
    for number in range(3):
        socket.send(json.dumps({"type": "response.create", **ask("plain", user(f"turn {number}"))}))
    ids: list[str] = []
    finished: list[str] = []
    while len(finished) < 3:
        event = json.loads(socket.recv(timeout=20))
        valid_event(event)
        if event["type"] == "response.created":
            assert len(ids) == len(finished), "turns do not mix"
            ids.append(event["response"]["id"])
        elif event["type"] == "response.completed":
            finished.append(event["response"]["id"])
    assert finished == ids
    assert len(set(ids)) == 3


def test_socket_continues_what_is_not_stored(
    server: LiveServer, socket: ClientConnection, http: httpx.Client
) -> None:
    first = last(turn(socket, ask("plain", user("My name is Alice."), store=False)))
    assert http.get(f"/v1/responses/{first['id']}").status_code == 404
    follow = ask("plain", user("My name?"), store=False, previous_response_id=first["id"])
    second = last(turn(socket, follow))
    explicit = ask("plain", user("My name is Alice."), *first["output"], user("My name?"))
    assert second["usage"]["input_tokens"] == plain(http, explicit)["usage"]["input_tokens"]
    with connected(server) as other:
        error = turn(other, follow)[-1]
    assert error["error"]["code"] == "previous_response_not_found"


def test_socket_continues_what_is_stored_on_a_new_connection(server: LiveServer) -> None:
    with connected(server) as one:
        first = last(turn(one, ask("plain", user("hello"))))
    with connected(server) as other:
        follow = ask("plain", user("again"), previous_response_id=first["id"])
        second = last(turn(other, follow))
    assert second["previous_response_id"] == first["id"]
    assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"]


def test_socket_tool_round(socket: ClientConnection) -> None:
    first = last(turn(socket, ask("caller", user("Oslo?"), tools=[WEATHER], store=False)))
    call = first["output"][-1]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
    follow = ask("plain", output, previous_response_id=first["id"], store=False)
    assert last(turn(socket, follow))["status"] == "completed"


def test_socket_errors_are_events_and_the_connection_goes_on(socket: ClientConnection) -> None:
    for body, status, code in (
        (ask("missing", user("x")), 404, "model_not_found"),
        (
            ask("plain", user("x"), previous_response_id="resp_0"),
            400,
            "previous_response_not_found",
        ),
        ({"model": "plain", "input": [{"type": "nonsense"}]}, 400, "unsupported_parameter"),
        ({"model": "plain", "input": "x", "wrong": 1}, 400, "unsupported_parameter"),
    ):
        event = turn(socket, body)[-1]
        assert (event["type"], event["status"], event["error"]["code"]) == ("error", status, code)
    socket.send("no JSON at all")
    event = json.loads(socket.recv(timeout=20))
    valid("WebSocketErrorEvent", event)
    assert event["error"]["code"] == "invalid_json"
    socket.send(json.dumps({"type": "response.steer", "model": "plain"}))
    event = json.loads(socket.recv(timeout=20))
    assert event["error"]["param"] == "type"
    assert last(turn(socket, ask("plain", user("still there?"))))["status"] == "completed"


@pytest.mark.parametrize(
    "field", [{"stream_options": {"include_obfuscation": False}}, {"background": True}]
)
def test_socket_refuses_what_only_http_knows(socket: ClientConnection, field: Json) -> None:
    body = {"type": "response.create", **ask("plain", user("x")), **field}
    assert faults("WebSocketResponseCreateEvent", body)
    event = turn(socket, body)[-1]
    assert (event["status"], event["error"]["param"]) == (400, next(iter(field)))


def test_a_socket_that_closes_frees_its_slot(server: LiveServer) -> None:
    with connected(server) as one:
        one.send(json.dumps({"type": "response.create", **ask("slow", user("x"))}))
        assert json.loads(one.recv(timeout=20))["type"] == "response.created"
        wait_until(lambda: server.status("slow")["running"] == 1)
    wait_until(lambda: not server.status("slow")["running"])


def test_socket_tells_a_crash_as_a_failure_and_goes_on(socket: ClientConnection) -> None:
    response = last(turn(socket, ask("dies", user("x"))))
    assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
    follow = ask("plain", user("y"), previous_response_id=response["id"])
    assert turn(socket, follow)[-1]["error"]["code"] == "previous_response_failed"
    assert last(turn(socket, ask("plain", user("x"))))["status"] == "completed"


def test_socket_fills_silence(socket: ClientConnection) -> None:
    events = turn(socket, ask("silent-for-long", user("x")))
    kinds = [event["type"] for event in events]
    assert kinds.count("response.in_progress") > 1


def test_socket_asks_for_a_key_where_there_are_keys(tmp_path: Path) -> None:
    keys = {"api_keys": ["secret-key-1"]}
    with sim_server(tmp_path, {"plain": SCRIPTS["plain"]}, server=keys) as live:
        with pytest.raises(InvalidStatus) as caught, connected(live):
            pass
        assert caught.value.response.status_code == 401
        url = live.url.replace("http", "ws") + "/v1/responses"
        key = {"Authorization": "Bearer secret-key-1"}
        with connect(url, proxy=None, additional_headers=key) as client:
            assert last(turn(client, ask("plain", user("x"))))["status"] == "completed"


def test_the_requests_over_socket_are_valid_themselves() -> None:
    body = {"type": "response.create", **ask("plain", user("x"))}
    valid("WebSocketResponseCreateEvent", body)


# -------------------------------------------------------------------------------- compaction


def test_compaction_is_valid_and_shorter(http: httpx.Client) -> None:
    talk = [user("A long story. " * 100), user("And its end. " * 100)]
    body = {"model": "plain", "input": talk, "instructions": "Be kind."}
    valid("CompactResponseMethodPublicBody", body)
    reply = http.post("/v1/responses/compact", json=body)
    assert reply.status_code == 200, reply.text
    compacted = reply.json()
    valid("CompactResource", compacted)
    assert [item["type"] for item in compacted["output"]] == ["compaction"]
    whole = plain(http, ask("plain", *talk, user("Go on.")))
    short = plain(http, ask("plain", *compacted["output"], user("Go on.")))
    assert short["usage"]["input_tokens"] < whole["usage"]["input_tokens"] / 5


def test_compaction_of_a_stored_conversation_goes_on_over_socket(
    http: httpx.Client, socket: ClientConnection
) -> None:
    first = plain(http, ask("plain", user("Remember 42.")))
    body = {"model": "plain", "previous_response_id": first["id"], "input": None}
    valid("CompactResponseMethodPublicBody", body)
    compacted = http.post("/v1/responses/compact", json=body).json()
    valid("CompactResource", compacted)
    follow = ask("plain", *compacted["output"], user("Which number?"))
    response = last(turn(socket, follow))
    assert response["status"] == "completed"
    kept = http.get(f"/v1/responses/{response['id']}/input_items?order=asc").json()["data"]
    assert [item["type"] for item in kept] == ["compaction", "message"]
    for item in kept:
        valid("ItemField", item)


def test_a_compaction_that_was_tampered_with_is_refused(http: httpx.Client) -> None:
    compacted = http.post("/v1/responses/compact", json={"model": "plain", "input": "x"}).json()
    (item,) = compacted["output"]
    sealed = item["encrypted_content"]
    for broken in ("gAAAAABforeign", sealed[:-8], sealed[:20] + "A" * 8 + sealed[28:]):
        body = ask("plain", {**item, "encrypted_content": broken}, user("x"))
        reply = http.post("/v1/responses", json=body)
        assert reply.status_code == 400, broken
        assert reply.json()["error"]["code"] == "invalid_encrypted_content"
        assert reply.json()["error"]["param"] == "input.0.encrypted_content"


def test_nothing_to_summarise_is_a_typed_failure(http: httpx.Client) -> None:
    reply = http.post("/v1/responses/compact", json={"model": "silent", "input": "x"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (502, "empty_summary")


# ------------------------------------------------------------------------------------ phases


@pytest.mark.parametrize("phase", ["commentary", "final_answer"])
def test_phases_of_the_assistant_are_kept(http: httpx.Client, phase: str) -> None:
    said = {"type": "message", "role": "assistant", "content": "Hm.", "phase": phase}
    response = plain(http, ask("plain", user("x"), said, user("y")))
    kept = http.get(f"/v1/responses/{response['id']}/input_items?order=asc").json()["data"]
    assert [item.get("phase") for item in kept] == [None, phase, None]
    for item in kept:
        valid("ItemField", item)


def test_a_phase_nobody_knows_is_refused(http: httpx.Client) -> None:
    said = {"type": "message", "role": "assistant", "content": "Hm.", "phase": "dream"}
    assert faults("CreateResponseBody", {"model": "plain", "input": [said]})
    reply = http.post("/v1/responses", json={"model": "plain", "input": [said]})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "input.0.phase"


# ----------------------------------------------------------------------------- the judge


def test_the_judge_judges() -> None:
    assert faults("ResponseResource", {"id": "resp_1"})
    assert faults("ItemField", {"type": "message", "id": "x"})
    assert faults("CreateResponseBody", {"max_output_tokens": 1})
    changed = {name for name, schema in schemas().items() if schema != published()["schemas"][name]}
    assert changed == {place.partition(".")[0] for place in AMENDED}
    assert published()["version"] == "2026-04-24"
    assert len(published()["events"]) == 24
