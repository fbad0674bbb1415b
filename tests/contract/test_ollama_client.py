"""Ollama's interface through the official `ollama` client and raw, and as OpenClaw uses it."""

import contextlib
import json
from collections.abc import Generator, Iterator
from typing import Any

import httpx
import ollama
import pytest

from tests.contract.shapes import chat_shapes
from tests.support.process import ServerProcess
from tests.support.server import LiveServer, sim_server

MODELS = ("tiny-gguf", "tiny-mlx")
HELLO = [{"role": "user", "content": "Tell me something."}]
FEW = {"num_predict": 8, "temperature": 0}
COUNTS = {
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_cached_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
}
CALL = 'I add. <tool_call>\n{"name": "add", "arguments": {"a": 1, "b": [2, "é"]}}\n</tool_call>'
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}


@contextlib.contextmanager
def talking_to(url: str) -> Generator[ollama.Client]:
    """The official client, closed in the end."""
    made = ollama.Client(url, timeout=60)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def client(tiny_server: ServerProcess) -> Iterator[ollama.Client]:
    with talking_to(tiny_server.url) as made:
        yield made


def post(url: str, route: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{url}/api/{route}", json=body, timeout=60)


def lines(reply: httpx.Response) -> list[dict[str, Any]]:
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "application/x-ndjson"
    assert reply.text.endswith("\n")
    return [json.loads(line) for line in reply.text.splitlines()]


def check_end(last: dict[str, Any]) -> None:
    """The last line: every count is there and real."""
    assert last.keys() >= COUNTS
    assert all(type(last[name]) is int and last[name] >= 0 for name in COUNTS)
    assert last["done"] is True
    parts = last["load_duration"] + last["prompt_eval_duration"] + last["eval_duration"]
    assert parts <= last["total_duration"]
    assert last["prompt_eval_duration"] > 0


@pytest.mark.parametrize("model", MODELS)
def test_chat_streamed_and_plain_say_the_same(client: ollama.Client, model: str) -> None:
    plain = client.chat(model, HELLO, options=FEW)
    parts = list(client.chat(model, HELLO, options=FEW, stream=True))
    assert "".join(part.message.content or "" for part in parts) == plain.message.content
    assert plain.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert (parts[-1].done_reason, plain.done_reason) == ("length", "length")
    assert parts[-1].eval_count == plain.eval_count == 8
    assert parts[-1].prompt_eval_count == plain.prompt_eval_count
    assert {part.model for part in parts} == {plain.model} == {model}


@pytest.mark.parametrize("model", MODELS)
def test_generate_streamed_and_plain_say_the_same(client: ollama.Client, model: str) -> None:
    for raw in (False, True):
        plain = client.generate(model, "Once upon", options=FEW, raw=raw)
        parts = list(client.generate(model, "Once upon", options=FEW, raw=raw, stream=True))
        assert "".join(part.response or "" for part in parts) == plain.response
        assert plain.response
        assert plain.done_reason == "length"


@pytest.mark.parametrize("model", MODELS)
def test_raw_is_shorter_than_the_template(client: ollama.Client, model: str) -> None:
    raw = client.generate(model, "Once upon", options=FEW, raw=True)
    chat = client.generate(model, "Once upon", options=FEW)
    system = client.generate(model, "Once upon", options=FEW, system="Be brief.")
    assert 0 < raw.prompt_eval_count < chat.prompt_eval_count < system.prompt_eval_count  # type: ignore[operator]


@pytest.mark.parametrize("model", MODELS)
def test_the_bodies_hold_every_field_and_no_other(tiny_server: ServerProcess, model: str) -> None:
    body: dict[str, Any] = {"model": model, "messages": HELLO, "options": FEW}
    *parts, last = lines(post(tiny_server.url, "chat", **body))
    for part in parts:
        assert part.keys() == {"model", "created_at", "message", "done"}
        assert part["message"].keys() == {"role", "content"}
    assert last.keys() == {"model", "created_at", "message", "done", "done_reason"} | COUNTS
    check_end(last)
    plain = post(tiny_server.url, "chat", **body, stream=False)
    assert plain.headers["content-type"] == "application/json"
    assert plain.json().keys() == last.keys()
    check_end(plain.json())
    made = post(tiny_server.url, "generate", model=model, prompt="x", stream=False, options=FEW)
    assert made.json().keys() == last.keys() - {"message"} | {"response"}
    check_end(made.json())


@pytest.mark.parametrize("model", MODELS)
def test_logprobs_are_real(client: ollama.Client, model: str) -> None:
    answer = client.chat(model, HELLO, options=FEW, logprobs=True, top_logprobs=3)
    assert answer.logprobs
    for one in answer.logprobs:
        assert -50 < one.logprob <= 0
        assert one.top_logprobs is not None
        assert len(one.top_logprobs) == 3
        assert one.top_logprobs[0].logprob == pytest.approx(one.logprob)
    parts = client.generate(model, "x", options=FEW, logprobs=True, stream=True)
    assert sum(len(part.logprobs or ()) for part in parts) > 0


@pytest.mark.parametrize("model", MODELS)
def test_one_seed_gives_one_text(client: ollama.Client, model: str) -> None:
    options = {"num_predict": 12, "temperature": 1.5, "seed": 7}
    first, second = (client.chat(model, HELLO, options=options) for _ in range(2))
    assert first.message.content == second.message.content


@pytest.mark.parametrize("model", MODELS)
def test_errors_are_ollamas_own(client: ollama.Client, model: str) -> None:
    with pytest.raises(ollama.ResponseError, match="maximum context length is") as overflow:
        client.chat(model, [{"role": "user", "content": "long " * 20_000}])
    assert overflow.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match=r"options\.num_ctx") as window:
        client.chat(model, HELLO, options={"num_ctx": 10_000_000})
    assert window.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match="suffix") as suffix:
        client.generate(model, "a", suffix="b")
    assert suffix.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match="nobody") as unknown:
        client.chat("nobody", HELLO)
    assert unknown.value.status_code == 404


def test_what_there_is(client: ollama.Client, tiny_server: ServerProcess) -> None:
    listed = {model.model: model for model in client.list().models}
    assert set(MODELS) <= set(listed)
    running = {model.model: model for model in client.ps().models}
    assert set(MODELS) <= set(running)
    for model in MODELS:
        one = listed[model]
        assert one.details is not None
        assert one.details.family == "llama"
        assert one.details.parameter_size
        assert one.size
        assert len(one.digest or "") == 64
        assert running[model].digest == one.digest
        window = running[model].context_length
        shown = client.show(model)
        assert shown.modelinfo is not None
        assert shown.modelinfo["llama.context_length"] == window
        assert shown.modelinfo["general.parameter_count"] > 0
        assert {"completion", "tools"} <= set(shown.capabilities or ())
        assert shown.details == one.details
    with pytest.raises(ollama.ResponseError) as unknown:
        client.show("nobody")
    assert unknown.value.status_code == 404
    version = tiny_server.http.get(f"{tiny_server.url}/api/version").json()["version"]
    assert [int(part) for part in version.partition("+")[0].split(".")] >= [0, 6, 4]


@pytest.mark.parametrize("route", ["pull", "push", "create", "copy"])
def test_what_is_not_offered_says_what_to_do(tiny_server: ServerProcess, route: str) -> None:
    reply = post(tiny_server.url, route, model="m")
    assert reply.status_code == 404
    assert reply.json().keys() == {"error"}
    assert route in reply.json()["error"]


def test_somebody_is_here(tiny_server: ServerProcess) -> None:
    assert tiny_server.http.get(tiny_server.url + "/").text == "Opta LMX is running"
    assert tiny_server.http.head(tiny_server.url + "/").status_code == 200


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    scripts: dict[str, dict[str, Any]] = {
        "m": {},
        "calls": {"reply": CALL},
        "filling": {"infill": True},
        "sampling": {"echo_sampling": True},
        "slow": {"reply": "word " * 2000, "step_ms": 5},
        "mortal": {"reply": "word " * 2000, "step_ms": 2, "die_at_step": 4},
        "sleepy": {"load_ms": 600},
        "quiet": {"prefill_ms_per_token": 120},
    }
    sections = {"server": {"keepalive_s": 1, "prepare_before_headers_s": 0.1}}
    home = tmp_path_factory.mktemp("home")
    with sim_server(home, scripts, slots=1, max_waiting=1, **sections) as running:
        yield running


@pytest.fixture
def sim(server: LiveServer) -> Iterator[ollama.Client]:
    with talking_to(server.url) as made:
        yield made


def test_calls_of_tools_come_as_objects(sim: ollama.Client) -> None:
    answer = sim.chat("calls", HELLO, tools=[ADD])
    assert answer.message.tool_calls
    (call,) = answer.message.tool_calls
    assert (call.function.name, call.function.arguments) == ("add", {"a": 1, "b": [2, "é"]})
    assert (answer.done_reason, (answer.message.content or "").strip()) == ("stop", "I add.")
    parts = list(sim.chat("calls", HELLO, tools=[ADD], stream=True))
    calls = [call for part in parts for call in part.message.tool_calls or ()]
    assert [one.function for one in calls] == [call.function]
    assert not parts[-1].message.tool_calls


def test_loading_and_unloading_without_a_word(server: LiveServer, sim: ollama.Client) -> None:
    assert sim.generate("m").done_reason == "load"
    assert server.status("m")["state"] == "ready"
    assert sim.chat("m", [], keep_alive=0).done_reason == "unload"
    assert server.status("m") == {}
    assert sim.generate("m", keep_alive="0s").done_reason == "unload"
    assert sim.chat("m", keep_alive="5m").done_reason == "load"
    with pytest.raises(ollama.ResponseError) as unknown:
        sim.generate("nobody", keep_alive=0)
    assert unknown.value.status_code == 404


def test_unloading_loads_nothing_first(server: LiveServer) -> None:
    before = server.resolver.loads.count("filling")
    assert post(server.url, "generate", model="filling", keep_alive=0).status_code == 200
    assert server.resolver.loads.count("filling") == before


def test_large_bodies_that_ask_nothing_only_load(server: LiveServer) -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "x" * 70_000}}
    reply = post(server.url, "chat", model="m", messages=[], tools=[tool])
    assert reply.json()["done_reason"] == "load"
    assert (server.status("m")["waiting"], server.status("m")["running"]) == (0, 0)


def test_a_suffix_is_filled_in(sim: ollama.Client) -> None:
    answer = sim.generate("filling", "ab", suffix="cd")
    assert answer.prompt_eval_count == 4


def test_options_arrive(sim: ollama.Client) -> None:
    options = {"temperature": 0.25, "top_k": 3, "repeat_penalty": 1.5, "seed": 9}
    answer = sim.generate("sampling", "x", options=options)
    sampling = json.loads(answer.response or "")
    assert (sampling["temperature"], sampling["top_k"], sampling["seed"]) == (0.25, 3, 9)
    assert sampling["repetition_penalty"] == 1.5


def test_a_cold_model_answers_under_empty_lines(server: LiveServer) -> None:
    told = lines(post(server.url, "chat", model="sleepy", messages=HELLO))
    assert told[0]["message"]["content"] == ""
    assert told[-1]["load_duration"] >= 500_000_000
    check_end(told[-1])


def test_silence_is_filled_with_lines_that_clients_count(server: LiveServer) -> None:
    prompt = [{"role": "user", "content": "x" * 10}]
    told = lines(post(server.url, "chat", model="quiet", messages=prompt))
    assert len([line for line in told if line["message"]["content"] == ""]) >= 3
    assert told[-1]["prompt_eval_duration"] > 1_000_000_000


def test_a_full_line_says_when_to_come_back(server: LiveServer) -> None:
    with httpx.Client(timeout=30) as http:
        body = {"model": "slow", "messages": HELLO}
        url = f"{server.url}/api/chat"
        with (
            http.stream("POST", url, json=body) as first,
            http.stream("POST", url, json=body) as second,
        ):
            assert (first.status_code, second.status_code) == (200, 200)
            full = http.post(url, json=body)
    assert full.status_code == 429
    assert int(full.headers["retry-after"]) >= 1
    assert full.json().keys() == {"error"}


def test_a_worker_that_dies_is_an_error_line(server: LiveServer, sim: ollama.Client) -> None:
    reply = post(server.url, "chat", model="mortal", messages=HELLO)
    *_, last = lines(reply)
    assert last.keys() == {"error", "status"}
    with pytest.raises(ollama.ResponseError, match="mortal"):
        list(sim.chat("mortal", HELLO, stream=True))


def arguments(text: str) -> dict[str, Any]:
    """Arguments as OpenClaw reads them: what is no JSON becomes an empty object."""
    try:
        return json.loads(text)
    except ValueError:
        return {}


def as_ollama(message: dict[str, Any]) -> dict[str, Any]:
    """A turn as OpenClaw rewrites it for this interface."""
    turn = {**message, "role": message["role"].replace("developer", "system")}
    content = turn.get("content")
    if isinstance(content, list):
        turn["content"] = "".join(part["text"] for part in content)
    turn["content"] = turn.get("content") or ""
    if calls := turn.get("tool_calls"):
        turn["tool_calls"] = [
            {
                "id": call["id"],
                "function": {
                    "name": call["function"]["name"],
                    "arguments": arguments(call["function"]["arguments"]),
                },
            }
            for call in calls
        ]
    if turn["role"] == "tool":
        turn.setdefault("tool_name", "read")
    keep = {"role", "content", "tool_calls", "tool_call_id", "tool_name", "thinking"}
    return {name: value for name, value in turn.items() if name in keep}


SHAPES = [shape for shape in chat_shapes("m") if shape.body.get("messages")]


@pytest.mark.parametrize("shape", SHAPES, ids=[shape.name for shape in SHAPES])
def test_openclaws_own_requests(server: LiveServer, shape: Any) -> None:
    """What its `ollama` mode sends, and what its reader demands of every line."""
    body: dict[str, Any] = {
        "model": "m",
        "messages": [as_ollama(message) for message in shape.body["messages"]],
        "stream": True,
        "options": {"num_ctx": 4096, "temperature": 0, "num_predict": 64, "top_p": 1},
        "truncate": False,
        "shift": False,
        "think": False,
    }
    if tools := shape.body.get("tools"):
        plain = {"name", "description", "parameters"}
        body["tools"] = [
            {
                "type": "function",
                "function": {key: tool["function"][key] for key in plain & tool["function"].keys()},
            }
            for tool in tools
        ]
    told = lines(httpx.post(f"{server.url}/api/chat", json=body, headers=shape.headers, timeout=30))
    assert all(isinstance(line["message"], dict) for line in told)
    assert all(isinstance(line["done"], bool) for line in told)
    assert [line["done"] for line in told].index(True) == len(told) - 1
    check_end(told[-1])


@pytest.mark.engine
def test_the_starter_through_the_client_on_both_engines(starter_server: ServerProcess) -> None:
    question = [{"role": "user", "content": "What is the capital of France? One word."}]
    with talking_to(starter_server.url) as client:
        for model in ("starter", "starter:mlx", "starter:latest"):
            options = {"temperature": 0, "num_predict": 12}
            answer = client.chat(model, question, options=options)
            assert "Paris" in (answer.message.content or "")
            parts = list(client.chat(model, question, options=options, stream=True))
            joined = "".join(part.message.content or "" for part in parts)
            assert joined == answer.message.content
        vectors = client.embed("starter-embed", ["hello world", "goodbye"])
        assert [len(one) for one in vectors.embeddings] == [384, 384]
        assert vectors.prompt_eval_count
        old = client.embeddings("starter-embed", "hello world")
        assert list(old.embedding) == pytest.approx(list(vectors.embeddings[0]), abs=1e-4)
        listed = {one.model: one for one in client.list().models}
        assert listed["starter"].details is not None
        assert listed["starter"].details.parameter_size == "134.5M"
        assert client.show("starter-embed").capabilities == ["embedding"]
        with pytest.raises(ollama.ResponseError) as wrong:
            client.embed("starter", "text")
        assert wrong.value.status_code == 400
