"""What `/v1/responses` promises beyond its shape: keeping, failing, cutting, waiting."""

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.openresponses import events_of, fold, valid
from tests.support.server import LiveServer, sim_server
from tests.support.waiting import wait_until

Json = dict[str, Any]

CALL = '<tool_call> {"name": "read", "arguments": {"path": "a"}} </tool_call>'
NAMED = {"type": "function", "name": "read"}
READ: Json = {**NAMED, "parameters": {"type": "object"}}
SCRIPTS: dict[str, Json] = {
    "plain": {"reply": "one two three four"},
    "caller": {"reply": f"Let me look. {CALL} {CALL}"},
    "slow": {"reply": "word " * 400, "step_ms": 10},
    "silent": {"reply": "one two", "step_ms": 1200},
    "dies": {"reply": "one two three four", "die_at_step": 3},
    "dies-early": {"reply": "one two", "die_at_step": 1},
    "late": {"reply": "one two", "load_ms": 300},
    "small": {"reply": "ok", "context": 200},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    limits = {"keepalive_s": 1.0, "prepare_before_headers_s": 0.1}
    with sim_server(tmp_path_factory.mktemp("home"), SCRIPTS, server=limits) as live:
        yield live


@pytest.fixture
def http(server: LiveServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=20) as client:
        yield client


def made(http: httpx.Client, model: str, **fields: Any) -> Json:
    reply = http.post("/v1/responses", json={"model": model, "input": "hi", **fields})
    assert reply.status_code == 200, reply.text
    return reply.json()


def streamed(http: httpx.Client, model: str, **fields: Any) -> list[Json]:
    body = {"model": model, "input": "hi", "stream": True, **fields}
    reply = http.post("/v1/responses", json=body)
    assert reply.status_code == 200, reply.text
    events = events_of(reply.text)
    fold(events)
    return events


def refused(http: httpx.Client, model: str, **fields: Any) -> tuple[int, Json]:
    reply = http.post("/v1/responses", json={"model": model, "input": "hi", **fields})
    return reply.status_code, reply.json()["error"]


# --------------------------------------------------------------------------------- keeping


def test_a_conversation_goes_on_after_a_restart(tmp_path: Path) -> None:
    scripts = {"plain": SCRIPTS["plain"]}
    with sim_server(tmp_path, scripts) as live, httpx.Client(base_url=live.url) as http:
        first = made(http, "plain", input="My name is Alice.")
    with sim_server(tmp_path, scripts) as live, httpx.Client(base_url=live.url) as http:
        assert http.get(f"/v1/responses/{first['id']}").json() == first
        second = made(http, "plain", previous_response_id=first["id"])
        assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"]


def test_instructions_are_not_carried_over(http: httpx.Client) -> None:
    bare = made(http, "plain", input="a")
    ruled = made(http, "plain", input="a", instructions="Be brief. " * 20)
    assert ruled["usage"]["input_tokens"] > bare["usage"]["input_tokens"]
    after = [made(http, "plain", previous_response_id=one["id"]) for one in (bare, ruled)]
    assert after[0]["usage"]["input_tokens"] == after[1]["usage"]["input_tokens"]


def test_what_is_not_stored_is_not_there(http: httpx.Client) -> None:
    response = made(http, "plain", store=False)
    assert response["store"] is False
    reply = http.get(f"/v1/responses/{response['id']}")
    assert reply.status_code == 404
    status, error = refused(http, "plain", previous_response_id=response["id"])
    assert (status, error["code"]) == (400, "previous_response_not_found")


def test_a_streamed_response_is_kept_before_its_end_is_told(http: httpx.Client) -> None:
    response = streamed(http, "plain")[-1]["response"]
    assert http.get(f"/v1/responses/{response['id']}").json() == response


def test_items_are_paged_and_referred_to(http: httpx.Client) -> None:
    items = [{"role": "user", "content": f"question {n}"} for n in range(5)]
    response = made(http, "plain", input=items)
    base = f"/v1/responses/{response['id']}/input_items"
    first = http.get(base, params={"limit": 2, "order": "asc"}).json()
    for item in first["data"]:
        valid("ItemField", item)
    assert first["has_more"] is True
    rest = http.get(base, params={"order": "asc", "after": first["last_id"]}).json()
    assert len(rest["data"]) == 3
    assert rest["has_more"] is False
    for params, param in (
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"order": "up"}, "order"),
        ({"after": "msg_none"}, "after"),
    ):
        reply = http.get(base, params=params)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    referring = [{"type": "item_reference", "id": rest["data"][0]["id"]}]
    referred = made(http, "plain", input=referring)
    spelled = made(http, "plain", input="question 2")
    assert referred["usage"]["input_tokens"] == spelled["usage"]["input_tokens"]
    status, error = refused(http, "plain", input=[{"type": "item_reference", "id": "msg_none"}])
    assert (status, error["code"], error["param"]) == (404, "item_not_found", "input.0.id")


def test_a_damaged_store_costs_only_what_needs_it(tmp_path: Path) -> None:
    (tmp_path / "lmx.db").write_bytes(b"no database" * 1000)
    scripts = {"plain": SCRIPTS["plain"]}
    with sim_server(tmp_path, scripts) as live, httpx.Client(base_url=live.url) as http:
        reply = http.post("/v1/responses", json={"model": "plain", "input": "hi"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "store_unavailable")
        assert int(reply.headers["retry-after"]) > 0
        for path in ("/v1/responses/resp_1", "/v1/responses/resp_1/input_items"):
            assert http.get(path).status_code == 503
        assert made(http, "plain", store=False)["status"] == "completed"
        assert live.status("plain")["waiting"] == 0


# ---------------------------------------------------------------------- failing and cutting


def test_a_crash_in_mid_stream_is_a_failure_clients_retry(http: httpx.Client) -> None:
    events = streamed(http, "dies")
    assert events[-1]["type"] == "response.failed"
    response = events[-1]["response"]
    assert response["error"]["code"] == "server_error"
    assert response["output"][0]["status"] == "incomplete"
    kept = http.get(f"/v1/responses/{response['id']}").json()
    assert kept["status"] == "failed"


def test_a_crash_in_a_plain_answer_keeps_its_status(http: httpx.Client) -> None:
    status, error = refused(http, "dies-early")
    assert status in {500, 502, 503}
    assert error["type"] in {"server_error", "overloaded_error"}


def test_a_cut_answer_says_so(http: httpx.Client) -> None:
    plain = made(http, "plain", max_output_tokens=2)
    told = streamed(http, "plain", max_output_tokens=2)
    assert told[-1]["type"] == "response.incomplete"
    for response in (plain, told[-1]["response"]):
        valid("ResponseResource", response)
        assert response["status"] == "incomplete"
        assert response["incomplete_details"] == {"reason": "max_output_tokens"}
        assert response["output"][-1]["status"] == "incomplete"
        assert response["usage"]["output_tokens"] == 2


def test_calls_end_where_they_were_bounded(http: httpx.Client) -> None:
    tools = [{"type": "function", "name": "read"}]

    def calls(**fields: Any) -> int:
        output = made(http, "caller", tools=tools, **fields)["output"]
        return sum(item["type"] == "function_call" for item in output)

    assert calls() == 2
    assert calls(max_tool_calls=1) == 1
    assert calls(parallel_tool_calls=False) == 1


def test_truncation_happens_only_when_asked(http: httpx.Client) -> None:
    talk: list[Json] = [{"role": "system", "content": "Rule."}]
    for n in range(10):
        talk += [
            {"role": "user", "content": f"question {n}"},
            {"role": "assistant", "content": f"answer {n}"},
        ]
    talk.append({"role": "user", "content": "the last"})
    status, error = refused(http, "small", input=talk)
    assert (status, error["code"]) == (400, "context_length_exceeded")
    assert "maximum context length is 200 tokens" in error["message"]
    assert error["param"] == "input"
    for path in ("/v1/responses/input_tokens", "/v1/responses/compact"):
        reply = http.post(path, json={"model": "small", "input": talk})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "input")
    cut = made(http, "small", input=talk, truncation="auto")
    assert cut["status"] == "completed"
    one_more = len("user: question 9\nassistant: answer 9\n")
    assert 200 - one_more <= cut["usage"]["input_tokens"] < 200, "no more went than had to"
    endless = [{"role": "user", "content": "x" * 500}]
    status, error = refused(http, "small", input=endless, truncation="auto")
    assert (status, error["code"]) == (400, "context_length_exceeded")


def test_truncation_shortens_a_long_turn_of_tools(http: httpx.Client) -> None:
    talk: list[Json] = [{"role": "user", "content": "the task"}]
    for n in range(10):
        talk += [
            {"type": "function_call", "call_id": f"c{n}", "name": "read", "arguments": "{}"},
            {"type": "function_call_output", "call_id": f"c{n}", "output": f"result {n} " * 3},
        ]
    tools = [{"type": "function", "name": "read"}]
    status, error = refused(http, "small", input=talk, tools=tools)
    assert (status, error["code"]) == (400, "context_length_exceeded")
    cut = made(http, "small", input=talk, tools=tools, truncation="auto")
    assert 100 < cut["usage"]["input_tokens"] < 200


def test_a_client_that_goes_frees_its_slot(server: LiveServer, http: httpx.Client) -> None:
    with http.stream(
        "POST", "/v1/responses", json={"model": "slow", "input": "hi", "stream": True}
    ) as reply:
        lines = reply.iter_lines()  # Held: a generator that is dropped closes its connection.
        next(lines)
        wait_until(lambda: server.status("slow")["running"] == 1)
    wait_until(lambda: not server.status("slow")["running"])


# ------------------------------------------------------------------- waiting and background


def test_silence_is_filled_with_events_that_say_nothing(http: httpx.Client) -> None:
    events = streamed(http, "silent")
    kinds = [event["type"] for event in events]
    assert kinds.count("response.in_progress") > 1, "before the first token"
    empty = [event for event in events if event.get("delta") == ""]
    assert empty, "between tokens"


def test_a_wait_for_the_model_is_told_as_queued(http: httpx.Client) -> None:
    kinds = [event["type"] for event in streamed(http, "late")]
    assert kinds[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert kinds[-1] == "response.completed"


def finished(http: httpx.Client, response: Json) -> Json:
    """Poll a background response to its end."""
    states: list[Json] = []

    def over() -> bool:
        states.append(http.get(f"/v1/responses/{response['id']}").json())
        valid("ResponseResource", states[-1])
        return states[-1]["status"] not in {"queued", "in_progress"}

    wait_until(over)
    return states[-1]


def test_a_background_response_is_made_after_the_answer(http: httpx.Client) -> None:
    response = made(http, "plain", background=True)
    assert response["status"] == "queued"
    valid("ResponseResource", response)
    done = finished(http, response)
    assert done["status"] == "completed"
    assert done["output"][0]["content"][0]["text"].split() == ["one", "two", "three", "four"]
    again = http.post(f"/v1/responses/{response['id']}/cancel")
    assert again.json() == done, "what has ended stays as it is"


def test_a_background_failure_is_kept(http: httpx.Client) -> None:
    done = finished(http, made(http, "dies-early", background=True))
    assert (done["status"], done["error"]["code"]) == ("failed", "server_error")


def test_background_work_can_be_cancelled(server: LiveServer, http: httpx.Client) -> None:
    response = made(http, "slow", background=True)
    wait_until(lambda: server.status("slow")["running"] == 1)
    assert http.get(f"/v1/responses/{response['id']}").json()["status"] == "in_progress"
    status, error = refused(http, "plain", previous_response_id=response["id"])
    assert (status, error["code"]) == (409, "response_not_finished")
    cancelled = http.post(f"/v1/responses/{response['id']}/cancel").json()
    assert cancelled["status"] == "cancelled"
    status, error = refused(http, "plain", previous_response_id=response["id"])
    assert (status, error["code"]) == (400, "previous_response_failed")
    valid("ResponseResource", cancelled)
    wait_until(lambda: not server.status("slow")["running"])
    plain = made(http, "plain")
    reply = http.post(f"/v1/responses/{plain['id']}/cancel")
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "not_cancellable")
    assert http.post("/v1/responses/resp_none/cancel").status_code == 404


def test_a_cancellation_is_over_when_its_answer_comes(http: httpx.Client) -> None:
    ids = [made(http, "slow", background=True)["id"] for _ in range(6)]
    with ThreadPoolExecutor(12) as pool:
        paths = [f"/v1/responses/{one}/cancel" for one in (*ids, *ids)]
        replies = [reply.json() for reply in pool.map(http.post, paths)]
    assert {reply["status"] for reply in replies} == {"cancelled"}
    assert {reply["completed_at"] for reply in replies} == {None}


def test_what_a_server_leaves_unfinished_is_marked_as_failed(tmp_path: Path) -> None:
    scripts = {"slow": SCRIPTS["slow"], "plain": SCRIPTS["plain"]}
    with sim_server(tmp_path, scripts) as live, httpx.Client(base_url=live.url) as http:
        response = made(http, "slow", background=True)
        wait_until(lambda: live.status("slow")["running"] == 1)
    with sim_server(tmp_path, scripts) as live, httpx.Client(base_url=live.url) as http:
        left = http.get(f"/v1/responses/{response['id']}").json()
        assert (left["status"], left["error"]["code"]) == ("failed", "server_error")


def test_instructions_are_no_rules_of_a_compacted_conversation(http: httpx.Client) -> None:
    talk = [{"role": "system", "content": "Rule."}, {"role": "user", "content": "hi"}]

    def tokens(**fields: Any) -> int:
        body = {"model": "plain", "input": talk, **fields}
        compacted = http.post("/v1/responses/compact", json=body).json()
        follow = [*compacted["output"], {"role": "user", "content": "go on"}]
        return made(http, "plain", input=follow)["usage"]["input_tokens"]

    assert tokens(instructions="Be kind. " * 20) == tokens()
    assert tokens() > tokens(input=talk[1:])


def test_what_a_killed_server_left_is_marked_as_failed_when_it_is_read(tmp_path: Path) -> None:
    scripts = {"plain": SCRIPTS["plain"]}
    with sim_server(tmp_path, scripts) as live, httpx.Client(base_url=live.url) as http:
        one, other = (finished(http, made(http, "plain", background=True)) for _ in range(2))
    with contextlib.closing(sqlite3.connect(tmp_path / "lmx.db")) as database, database:
        for response in (one, other):
            body = json.dumps({**response, "status": "in_progress", "output": []}).encode()
            database.execute(
                "UPDATE responses SET status = 'in_progress', body = ? WHERE id = ?",
                (body, response["id"]),
            )
    with sim_server(tmp_path, scripts) as live, httpx.Client(base_url=live.url) as http:
        for response in (one, other):
            left = http.get(f"/v1/responses/{response['id']}").json()
            assert (left["status"], left["error"]["code"]) == ("failed", "server_error")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"background": True, "store": False}, "background"),
        ({"background": True, "stream": True}, "background"),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "function", "name": "x"}}, "tool_choice.name"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"include": ["file_search_call.results"]}, "include.0"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": 5}, "input"),
        ({"tool_choice": 5}, "tool_choice"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"input": [{"type": "web_search_call", "id": "x"}]}, "input.0.type"),
        ({"input": [{"role": "user"}]}, "input.0.content"),
        ({"input": [{"role": "nobody", "content": "x"}]}, "input.0.role"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": ""}]}, "input.0.call_id"),
        ({"seed": 1}, "seed"),
        ({"text": {"format": {"type": "text", "schema": {}}}}, "text.format.schema"),
        ({"text": {"format": {"type": "json_object", "name": "x"}}}, "text.format.name"),
        ({"tools": [READ], "tool_choice": {**NAMED, "mode": "auto"}}, "tool_choice.mode"),
        ({"tools": [READ], "tool_choice": {**NAMED, "tools": [NAMED]}}, "tool_choice.tools"),
        (
            {
                "tools": [READ],
                "tool_choice": {"type": "allowed_tools", "tools": [NAMED], "name": "read"},
            },
            "tool_choice.name",
        ),
        (
            {"tools": [{**READ, "strict": True, "parameters": {"properties": [1]}}]},
            "tools.0.parameters.properties",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else json.dumps(value)[:40],
)
def test_what_cannot_be_done_is_refused_by_name(
    http: httpx.Client, fields: Json, param: str
) -> None:
    status, error = refused(http, "plain", **fields)
    assert (status, error["param"]) == (400, param)


def test_a_stored_stream_is_not_replayed(http: httpx.Client) -> None:
    response = made(http, "plain")
    for params in (
        {"stream": "true"},
        {"starting_after": "0"},
        {"include": "x"},
        {"include_obfuscation": "true"},
    ):
        reply = http.get(f"/v1/responses/{response['id']}", params=params)
        assert reply.status_code == 400
        assert reply.json()["error"]["param"] in params


@pytest.mark.parametrize("name", ["%00", "%FF", "a" * 4000, "..", "resp_1%2F2", "%F0%9F%98%80"])
def test_strange_ids_are_unknown_ids(http: httpx.Client, name: str) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")):
        reply = http.request(method, f"/v1/responses/{name}{path}")
        assert reply.status_code in {404, 405}
        assert reply.json()["error"]["code"]


def test_an_overloaded_model_refuses_before_anything_is_stored(tmp_path: Path) -> None:
    scripts = {"slow": SCRIPTS["slow"]}
    with (
        sim_server(tmp_path, scripts, slots=1, max_waiting=0) as live,
        httpx.Client(base_url=live.url) as http,
        contextlib.ExitStack() as stack,
    ):
        body = {"model": "slow", "input": "hi", "stream": True}
        held = stack.enter_context(http.stream("POST", "/v1/responses", json=body))
        lines = held.iter_lines()  # Held: a generator that is dropped closes its connection.
        next(lines)
        waiting = stack.enter_context(http.stream("POST", "/v1/responses", json=body))
        assert waiting.status_code == 200
        reply = http.post("/v1/responses", json=body)
        assert reply.status_code == 429
        assert reply.json()["error"]["retry_after"] == int(reply.headers["retry-after"])
