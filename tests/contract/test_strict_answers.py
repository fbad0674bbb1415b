"""Answers are what the SDKs' own types say, strictly; all there is besides is documented."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import ollama
import pytest
from anthropic.types import ErrorResponse, Message, MessageTokensCount, RawMessageStreamEvent
from openai.types import Completion, CreateEmbeddingResponse, ErrorObject, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.contract.failures import events
from tests.contract.matrix.extras import EXTRAS, OLLAMA_EXTRAS, RESPONSES_EXTRAS
from tests.contract.strictness import unknown
from tests.support.process import ServerProcess
from tests.support.server import LiveServer, sim_server

Json = dict[str, Any]

CALL = '<tool_call> {"name": "read", "arguments": {"path": "a"}} </tool_call>'
SCRIPTS: dict[str, Json] = {
    "thinker": {"reply": "<think> first this </think> The answer.", "reasoning": "think"},
    "caller": {"reply": f"<think> look </think> So: {CALL} {CALL}", "reasoning": "think"},
    "cut": {"reply": "<think> on and on", "reasoning": "think"},
}
PARAMETERS: Json = {"type": "object", "properties": {"path": {"type": "string"}}}
MODELS = ("tiny-mlx", "tiny-gguf", *SCRIPTS)
EACH = pytest.mark.parametrize("model", MODELS)
STREAM_EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
RESPONSE_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    queue = {"load_wait_s": 0}
    scripts = {**SCRIPTS, "cold": {"load_ms": 8000}}
    with sim_server(tmp_path_factory.mktemp("home"), scripts, queue=queue) as live:
        for model in SCRIPTS:
            httpx.post(f"{live.url}/admin/models/load", json={"model": model}, timeout=30)
        yield live


class Asker:
    """Posts to the server that has the model."""

    def __init__(self, tiny: str, sim: str) -> None:
        self._urls = {model: sim if model in SCRIPTS else tiny for model in MODELS}
        self.http = httpx.Client(timeout=60)

    def __call__(self, path: str, model: str, **fields: Any) -> httpx.Response:
        reply = self.http.post(self._urls[model] + path, json={"model": model, **fields})
        assert reply.status_code == 200, reply.text
        return reply


@pytest.fixture(scope="module")
def ask(tiny_server: ServerProcess, sim: LiveServer) -> Iterator[Asker]:
    asker = Asker(tiny_server.url, sim.url)
    yield asker
    asker.http.close()


def strictly(kind: Any, value: Any, allowed: dict[str, str]) -> Any:
    """The value read strictly as that type; everything in it is the type's own, or allowed."""
    adapter = kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)
    # JSON has no other way to write what some types hold: times, and tuples.
    read = adapter.validate_json(json.dumps(value), strict=True)
    found = extras(value, adapter.dump_python(read, mode="json", exclude_unset=True, by_alias=True))
    found |= unknown(read)
    assert found <= allowed.keys(), found
    return read


def extras(given: Any, kept: Any) -> set[str]:
    """Keys that were lost when a type was filled from JSON."""
    if isinstance(given, dict) and isinstance(kept, dict):
        lost = given.keys() - kept.keys()
        return lost.union(*(extras(given[key], kept[key]) for key in given.keys() & kept.keys()))
    if isinstance(given, list) and isinstance(kept, list):
        return set().union(*map(extras, given, kept))
    return set()


def turn(**more: Any) -> Json:
    return {"messages": [{"role": "user", "content": "hi"}], **more}


def tools() -> list[Json]:
    return [{"type": "function", "function": {"name": "read", "parameters": PARAMETERS}}]


@EACH
def test_chat(ask: Asker, model: str) -> None:
    body = turn(tools=tools(), n=2, logprobs=True, top_logprobs=2, max_tokens=24)
    path = "/v1/chat/completions"
    plain = strictly(ChatCompletion, ask(path, model, **body).json(), EXTRAS)
    assert len(plain.choices) == 2
    assert plain.choices[0].logprobs or not plain.choices[0].message.content
    chunks = events(
        ask(path, model, **body, stream=True, stream_options={"include_usage": True}).text
    )
    read = [strictly(ChatCompletionChunk, chunk, EXTRAS) for chunk in chunks]
    assert read[-1].usage == plain.usage or model.startswith("tiny")
    if model == "thinker":
        assert plain.choices[0].message.reasoning_content
    if model == "caller":
        assert len(plain.choices[0].message.tool_calls) == 2


@EACH
def test_completions(ask: Asker, model: str) -> None:
    body: Json = {"prompt": "once", "logprobs": 2, "max_tokens": 4}
    strictly(Completion, ask("/v1/completions", model, **body).json(), {})
    for part in events(ask("/v1/completions", model, **body, stream=True).text):
        for choice in part["choices"]:
            # OpenAI's own streams say null here, which its types do not know.
            choice["finish_reason"] = choice["finish_reason"] or "stop"
        strictly(Completion, part, {})


@EACH
def test_responses(ask: Asker, model: str) -> None:
    body: Json = {
        "input": "hi",
        "tools": [{"type": "function", "name": "read", "parameters": PARAMETERS}],
        "max_output_tokens": 24,
        "top_logprobs": 2,
        "metadata": {"a": "b"},
    }
    strictly(Response, ask("/v1/responses", model, **body).json(), RESPONSES_EXTRAS)
    for event in events(ask("/v1/responses", model, **body, stream=True).text):
        strictly(RESPONSE_EVENT, event, RESPONSES_EXTRAS)


@EACH
def test_messages(ask: Asker, model: str) -> None:
    offered = [{"name": "read", "input_schema": PARAMETERS}]
    body = turn(tools=offered, max_tokens=24)
    plain = strictly(Message, ask("/v1/messages", model, **body).json(), {})
    for event in events(ask("/v1/messages", model, **body, stream=True).text):
        if event["type"] != "ping":  # the SDK takes it away before its types see it
            strictly(STREAM_EVENT, event, {})
    counted = ask("/v1/messages/count_tokens", model, **turn(tools=offered)).json()
    usage = plain.usage
    prompt = usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens
    assert strictly(MessageTokensCount, counted, {}).input_tokens == prompt


@EACH
def test_ollama(ask: Asker, model: str) -> None:
    options = {"num_predict": 24}
    for path, kind, body in (
        ("/api/chat", ollama.ChatResponse, turn(tools=tools(), logprobs=True, top_logprobs=2)),
        ("/api/generate", ollama.GenerateResponse, {"prompt": "hi", "logprobs": True}),
    ):
        strictly(
            kind, ask(path, model, **body, options=options, stream=False).json(), OLLAMA_EXTRAS
        )
        lines = ask(path, model, **body, options=options).text.splitlines()
        parts = [strictly(kind, json.loads(line), OLLAMA_EXTRAS) for line in lines]
        assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]


@pytest.mark.parametrize("backend", ["mlx", "gguf"])
def test_vectors(tiny_server: ServerProcess, backend: str) -> None:
    http, url, model = tiny_server.http, tiny_server.url, f"tiny-embed-{backend}"
    body = {"model": model, "input": ["a", "b"]}
    strictly(CreateEmbeddingResponse, http.post(f"{url}/v1/embeddings", json=body).json(), {})
    strictly(ollama.EmbedResponse, http.post(f"{url}/api/embed", json=body).json(), OLLAMA_EXTRAS)


def test_lists(tiny_server: ServerProcess) -> None:
    http, url = tiny_server.http, tiny_server.url
    for model in http.get(f"{url}/v1/models").json()["data"]:
        # Its `x_opta` is one key of ours; what is in it is ours too.
        strictly(Model, {**model, "x_opta": None}, EXTRAS)
    strictly(ollama.ListResponse, http.get(f"{url}/api/tags").json(), OLLAMA_EXTRAS)
    strictly(ollama.ProcessResponse, http.get(f"{url}/api/ps").json(), OLLAMA_EXTRAS)
    shown = http.post(f"{url}/api/show", json={"model": "tiny-gguf"}).json()
    strictly(ollama.ShowResponse, shown, {})


@pytest.mark.parametrize("model", ["cold", "nobody"])
def test_errors(sim: LiveServer, model: str) -> None:
    """Whether or not there is a time to come back at."""
    body = turn(model=model, max_tokens=2)
    told = httpx.post(f"{sim.url}/v1/chat/completions", json=body, timeout=30).json()
    assert told.keys() - {"error"} <= {"retry_after"}
    strictly(ErrorObject, told["error"], EXTRAS)
    anthropic = httpx.post(f"{sim.url}/v1/messages", json=body, timeout=30)
    strictly(ErrorResponse, anthropic.json(), EXTRAS)
    plain = httpx.post(f"{sim.url}/api/chat", json=body, timeout=30).json()
    assert plain.keys() == {"error"}
