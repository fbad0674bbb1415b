"""`/v1/responses` with models that think, that hold to schemas, and that are real."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.clients import strict_openai
from tests.support.openresponses import events_of, fold, valid
from tests.support.process import ServerProcess
from tests.support.server import LiveServer, sim_server

Json = dict[str, Any]

CALL = '<tool_call> {"name": "read", "arguments": {"path": "a"}} </tool_call>'
SCRIPTS: dict[str, Json] = {
    "thinker": {"reply": "<think> first this then that </think> The answer.", "reasoning": "think"},
    "thinker-calls": {"reply": f"<think> look it up </think> {CALL}", "reasoning": "think"},
    "cut": {"reply": "<think> on and on and on", "reasoning": "think"},
    "poor": {"reply": "x", "lacks": ["grammar", "logprobs", "penalties"]},
    "loose": {"reply": f"{CALL}", "lacks": ["grammar"]},
}
CLOSED = {
    "type": "object",
    "properties": {"path": {"type": "string", "maxLength": 12}},
    "required": ["path"],
    "additionalProperties": False,
}
READ = {"type": "function", "name": "read", "parameters": CLOSED}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"enum": [1, 2, 3]}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with sim_server(tmp_path_factory.mktemp("home"), SCRIPTS) as live:
        yield live


def made(url: str, model: str, **fields: Any) -> Json:
    """The same request plain and streamed; both valid, and both alike."""
    body = {"model": model, "input": "hi", "temperature": 0, **fields}
    plain = httpx.post(f"{url}/v1/responses", json=body, timeout=60)
    assert plain.status_code == 200, plain.text
    valid("ResponseResource", plain.json())
    streamed = httpx.post(f"{url}/v1/responses", json={**body, "stream": True}, timeout=60)
    told = fold(events_of(streamed.text))
    assert content(told) == content(plain.json())
    return plain.json()


def content(response: Json) -> list[Json]:
    """What was said, without ids."""
    names = {"id", "call_id", "encrypted_content"}
    return [{k: v for k, v in item.items() if k not in names} for item in response["output"]]


def text_of(response: Json) -> str:
    messages = [item for item in response["output"] if item["type"] == "message"]
    return "".join(part["text"] for item in messages for part in item["content"])


def test_thinking_is_an_item_of_its_own(sim: LiveServer) -> None:
    response = made(sim.url, "thinker")
    thinking, message = response["output"]
    assert thinking["summary"][0]["text"].split() == ["first", "this", "then", "that"]
    assert message["content"][0]["text"].strip() == "The answer."
    details = response["usage"]["output_tokens_details"]
    assert 0 < details["reasoning_tokens"] < response["usage"]["output_tokens"]
    assert "encrypted_content" not in thinking


def test_thinking_comes_before_calls(sim: LiveServer) -> None:
    response = made(sim.url, "thinker-calls", tools=[{**READ, "strict": False}])
    assert [item["type"] for item in response["output"]] == ["reasoning", "function_call"]


def test_a_cut_within_thinking_is_incomplete(sim: LiveServer) -> None:
    response = made(sim.url, "cut", max_output_tokens=4)
    assert response["status"] == "incomplete"
    assert [item["type"] for item in response["output"]] == ["reasoning"]


def test_thinking_can_be_sent_back_in_every_form(sim: LiveServer) -> None:
    first = made(sim.url, "thinker", include=["reasoning.encrypted_content"], store=False)
    thinking, message = first["output"]
    forms = [
        thinking,
        {**thinking, "summary": []},
        {"type": "reasoning", "summary": thinking["summary"]},
        {
            "type": "reasoning",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": thinking["summary"][0]["text"]}],
        },
    ]
    for form in forms:
        talk = [{"role": "user", "content": "x"}, form, message, {"role": "user", "content": "y"}]
        body = {"model": "thinker", "input": talk}
        valid("CreateResponseBody", {**body, "input": [form, message]})
        assert made(sim.url, **body)["status"] == "completed"


def test_the_sdk_reads_thinking_strictly(sim: LiveServer) -> None:
    with strict_openai(sim.url) as sdk:
        response = sdk.responses.create(model="thinker", input="hi")
        kinds = {
            event.type for event in sdk.responses.create(model="thinker", input="hi", stream=True)
        }
    assert response.output[0].type == "reasoning"
    assert {"response.reasoning_summary_text.delta", "response.output_text.delta"} <= kinds


def test_strictness_nobody_asked_for_is_given_up_where_it_cannot_be(sim: LiveServer) -> None:
    response = made(sim.url, "loose", tools=[READ])
    assert response["output"][0]["type"] == "function_call"
    assert response["tools"][0]["strict"] is False
    body = {"model": "loose", "input": "hi", "tools": [{**READ, "strict": True}]}
    refused = httpx.post(f"{sim.url}/v1/responses", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tools")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"text": {"format": {"type": "json_object"}}}, "text.format"),
        ({"tools": [READ], "tool_choice": "required"}, "tool_choice"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"presence_penalty": 1}, "presence_penalty"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_engine_lacks_is_named_in_this_dialects_words(
    sim: LiveServer, fields: Json, param: str
) -> None:
    body = {"model": "poor", "input": "hi", **fields}
    for stream in (False, True):
        refused = httpx.post(f"{sim.url}/v1/responses", json={**body, "stream": stream})
        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (400, "unsupported_parameter")
        assert error["param"] == param


@pytest.mark.engine
@pytest.mark.parametrize("model", ["tiny-mlx", "tiny-gguf"])
def test_text_is_held_to_a_schema_on_both_backends(tiny_server: ServerProcess, model: str) -> None:
    schema = {"type": "json_schema", "name": "person", "schema": PERSON, "strict": True}
    response = made(tiny_server.url, model, text={"format": schema}, max_output_tokens=200)
    person = json.loads(text_of(response))
    assert set(person) == {"name", "age"}
    assert person["age"] in (1, 2, 3)
    assert response["text"]["format"]["schema"] == PERSON
    answer = made(
        tiny_server.url, model, text={"format": {"type": "json_object"}}, max_output_tokens=16
    )
    assert text_of(answer).lstrip().startswith("{")


@pytest.mark.engine
@pytest.mark.parametrize("model", ["tiny-mlx", "tiny-gguf"])
def test_log_probabilities_are_of_the_text(tiny_server: ServerProcess, model: str) -> None:
    fields = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    response = made(tiny_server.url, model, max_output_tokens=16, **fields)
    (part,) = response["output"][0]["content"]
    spelled = b"".join(bytes(entry["bytes"]) for entry in part["logprobs"])
    assert spelled.decode("utf-8", "replace") == part["text"]
    assert all(len(entry["top_logprobs"]) == 2 for entry in part["logprobs"])
    assert all(entry["logprob"] <= 0 for entry in part["logprobs"])


@pytest.mark.engine
def test_a_real_conversation_with_the_sdk(starter_server: ServerProcess, model: str) -> None:
    with strict_openai(starter_server.url) as sdk:
        first = sdk.responses.create(
            model=model,
            instructions="Answer in one short sentence.",
            input="What is the capital of France?",
            temperature=0,
            max_output_tokens=40,
        )
        assert "Paris" in first.output_text
        second = sdk.responses.create(
            model=model,
            input="Repeat what you said.",
            previous_response_id=first.id,
            temperature=0,
            max_output_tokens=40,
        )
    assert "Paris" in second.output_text


@pytest.mark.engine
def test_a_real_model_calls_the_tool_it_must(starter_server: ServerProcess, model: str) -> None:
    response = made(
        starter_server.url,
        model,
        input="Read the file notes.txt",
        tools=[READ],
        tool_choice="required",
        parallel_tool_calls=False,
        max_output_tokens=120,
    )
    call = response["output"][-1]
    assert (call["type"], call["name"], call["status"]) == ("function_call", "read", "completed")
    assert set(json.loads(call["arguments"])) == {"path"}
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "buy milk"}
    follow = {"input": [output], "previous_response_id": response["id"], "max_output_tokens": 30}
    assert made(starter_server.url, model, tools=[READ], **follow)["output"]


@pytest.mark.engine
def test_a_real_model_compacts(starter_server: ServerProcess, model: str) -> None:
    talk = [
        {"role": "user", "content": "My dog is called Rex. He is three years old."},
        {"role": "assistant", "content": "Rex sounds lovely."},
        {"role": "user", "content": "I live in Oslo and must buy 12 eggs tomorrow."},
        {"role": "assistant", "content": "Noted: 12 eggs."},
    ]
    body = {"model": model, "input": talk}
    reply = httpx.post(f"{starter_server.url}/v1/responses/compact", json=body, timeout=100)
    assert reply.status_code == 200, reply.text
    valid("CompactResource", reply.json())
    # So small a model tells little of it; that it is told what was written is what counts here.
    question = {"role": "user", "content": "What is my dog called?"}
    bare = made(starter_server.url, model, input=[question], max_output_tokens=8)
    follow = [*reply.json()["output"], question]
    answer = made(starter_server.url, model, input=follow, max_output_tokens=8)
    assert answer["usage"]["input_tokens"] > bare["usage"]["input_tokens"]
