"""Whole tool turns with the official `openai` SDK and a real model, on both engines."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import openai
import pytest
from openai.types.chat import ChatCompletionMessage

from tests.support.clients import strict_openai
from tests.support.process import ServerProcess

MODELS = ("starter", "starter:mlx")
QUESTION = {"role": "user", "content": "What is the weather in Paris, in celsius?"}
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 40},
        "unit": {"enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "jobs": {"type": "array", "items": {"type": "string", "maxLength": 30}, "maxItems": 2},
        "boss": {"anyOf": [{"$ref": "#/$defs/name"}, {"type": "null"}]},
    },
    "required": ["name", "age", "jobs", "boss"],
    "additionalProperties": False,
    "$defs": {"name": {"type": "string", "pattern": "^[A-Z][a-z]{1,12}$"}},
}


@pytest.fixture
def client(starter_server: ServerProcess) -> Iterator[openai.OpenAI]:
    with strict_openai(starter_server.url, timeout_s=120) as sdk:
        yield sdk


def tool(name: str, description: str, **function: Any) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": PARAMETERS,
            **function,
        },
    }


WEATHER = tool("get_weather", "The weather of a city.")
CLIMATE = tool("get_climate", "The usual weather of a city.")


def ask(client: openai.OpenAI, model: str, **fields: Any) -> Any:
    wanted: dict[str, Any] = {
        "messages": [QUESTION],
        "tools": [WEATHER, CLIMATE],
        "temperature": 0,
        "max_completion_tokens": 160,
        "parallel_tool_calls": False,
        **fields,
    }
    create: Any = client.chat.completions.create
    return create(model=model, **wanted)


def _turn(city: str) -> list[dict[str, Any]]:
    """A turn with a call, as a small model needs to see it before it makes one unasked."""
    arguments = json.dumps({"city": city, "unit": "celsius"})
    call = {
        "id": f"call_{city}",
        "type": "function",
        "function": {"name": "get_weather", "arguments": arguments},
    }
    return [
        {"role": "user", "content": f"The weather in {city}, in celsius?"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "Sunny"},
        {"role": "assistant", "content": f"Sunny in {city}."},
    ]


def only_call(message: ChatCompletionMessage) -> tuple[str, str, dict[str, Any]]:
    """Id, name and arguments of the only call, which fits the schema."""
    assert message.tool_calls is not None
    assert len(message.tool_calls) == 1
    assert not message.content
    call = message.tool_calls[0]
    assert call.type == "function"
    arguments = json.loads(call.function.arguments)
    assert jsonschema_rs.is_valid(PARAMETERS, arguments)
    return call.id, call.function.name, arguments


def streamed(chunks: Any) -> tuple[ChatCompletionMessage, str]:
    """The message that a stream's deltas make, and why it ended."""
    content, finish = "", ""
    calls: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        assert not finish, "nothing follows the end"
        (choice,) = chunk.choices
        finish = choice.finish_reason or ""
        content += choice.delta.content or ""
        for part in choice.delta.tool_calls or ():
            call = calls.setdefault(part.index, {"type": "function", "function": {}})
            call.update({"id": part.id} if part.id else {})
            for field in ("name", "arguments"):
                said = getattr(part.function, field) or ""
                call["function"][field] = call["function"].get(field, "") + said
    message = {"role": "assistant", "content": content, "tool_calls": list(calls.values()) or None}
    return ChatCompletionMessage.model_validate(message), finish


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_a_turn_from_question_to_answer(client: openai.OpenAI, model: str, stream: bool) -> None:
    reply = ask(client, model, tool_choice="required", stream=stream)
    if stream:
        message, finish = streamed(reply)
    else:
        message, finish = reply.choices[0].message, reply.choices[0].finish_reason
    assert finish == "tool_calls"
    call, name, arguments = only_call(message)
    assert (name, arguments) == ("get_weather", {"city": "Paris", "unit": "celsius"})

    said = message.model_dump(include={"role", "content", "tool_calls"}, exclude_none=True)
    result = {"role": "tool", "tool_call_id": call, "content": "Sunny, 21 degrees celsius."}
    last = ask(client, model, messages=[QUESTION, said, result], stream=stream)
    if stream:
        answer, finish = streamed(last)
    else:
        answer, finish = last.choices[0].message, last.choices[0].finish_reason
    assert finish == "stop"
    assert not answer.tool_calls
    assert "21" in (answer.content or "")


@pytest.mark.parametrize("model", MODELS)
def test_a_named_tool_is_called_though_another_fits_better(
    client: openai.OpenAI, model: str
) -> None:
    choice = {"type": "function", "function": {"name": "get_climate"}}
    message = ask(client, model, tool_choice=choice).choices[0].message
    assert only_call(message)[1] == "get_climate"


@pytest.mark.parametrize("model", MODELS)
def test_a_strict_tool_is_called_within_its_schema(client: openai.OpenAI, model: str) -> None:
    strict = tool("get_weather", "The weather of a city.", strict=True)
    earlier = [turn for city in ("Oslo", "Rome", "Lima") for turn in _turn(city)]
    asked = {"role": "user", "content": "The weather in Paris, in kelvin?"}
    reply = ask(client, model, tools=[strict], messages=[*earlier, asked]).choices[0]
    assert reply.finish_reason == "tool_calls"
    _, name, arguments = only_call(reply.message)
    assert (name, arguments["city"]) == ("get_weather", "Paris")


@pytest.mark.parametrize("model", MODELS)
def test_every_of_several_answers_calls(client: openai.OpenAI, model: str) -> None:
    fields = {"tool_choice": "required", "n": 2, "seed": 5, "max_completion_tokens": 80}
    first = ask(client, model, **fields)
    assert [choice.index for choice in first.choices] == [0, 1]
    assert {choice.finish_reason for choice in first.choices} == {"tool_calls"}
    if model.endswith("mlx"):  # the engine that promises it
        again = ask(client, model, **fields)
        for one, other in zip(first.choices, again.choices, strict=True):
            assert only_call(one.message)[1:] == only_call(other.message)[1:]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_an_answer_is_json_of_its_schema(client: openai.OpenAI, model: str, stream: bool) -> None:
    reply = ask(
        client,
        model,
        messages=[{"role": "user", "content": "Describe Ada, a mathematician aged 36."}],
        tools=openai.omit,
        parallel_tool_calls=openai.omit,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "person", "strict": True, "schema": PERSON},
        },
        stream=stream,
    )
    message, finish = (
        streamed(reply) if stream else (reply.choices[0].message, reply.choices[0].finish_reason)
    )
    assert finish == "stop"
    person = json.loads(message.content or "")
    assert jsonschema_rs.is_valid(PERSON, person)
    assert "Ada" in person["name"]
