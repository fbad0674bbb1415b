"""The official `anthropic` SDK, validating strictly, against the real program and a real model."""

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic.types import MessageParam, ToolParam

from tests.support.clients import strict_anthropic
from tests.support.process import ServerProcess

MODELS = ("starter", "starter:mlx")
QUESTION: list[MessageParam] = [
    {"role": "user", "content": "What is the capital of France? Answer in one short sentence."}
]
TOOL: ToolParam = {
    "name": "weather",
    "description": "Tells the weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
GREEDY: dict[str, Any] = {"temperature": 0}
"""Newer SDKs have no word for sampling, but send it."""


@pytest.fixture
def client(starter_server: ServerProcess) -> Iterator[anthropic.Anthropic]:
    with strict_anthropic(starter_server.url, timeout_s=120) as sdk:
        yield sdk


@pytest.mark.parametrize("model", MODELS)
def test_a_real_model_answers_sensibly(client: anthropic.Anthropic, model: str) -> None:
    answer = client.messages.create(
        model=model, messages=QUESTION, max_tokens=40, extra_body=GREEDY
    )
    (block,) = answer.content
    assert block.type == "text"
    assert "Paris" in block.text
    assert answer.stop_reason == "end_turn"
    assert answer.id.startswith("msg_")
    assert answer.id.removeprefix("msg_").isalnum()
    assert answer._request_id


@pytest.mark.parametrize("model", MODELS)
def test_streamed_and_plain_are_one_answer(client: anthropic.Anthropic, model: str) -> None:
    plain = client.messages.create(model=model, messages=QUESTION, max_tokens=5, extra_body=GREEDY)
    with client.messages.stream(
        model=model, messages=QUESTION, max_tokens=5, extra_body=GREEDY
    ) as stream:
        texts = list(stream.text_stream)
        whole = stream.get_final_message()
    (block,) = plain.content
    assert block.type == "text"
    assert "".join(texts) == block.text
    assert whole.stop_reason == plain.stop_reason == "max_tokens"
    assert whole.usage.output_tokens == plain.usage.output_tokens == 5
    counted = (whole.usage.input_tokens, whole.usage.cache_read_input_tokens or 0)
    before = (plain.usage.input_tokens, plain.usage.cache_read_input_tokens or 0)
    assert sum(counted) == sum(before)


@pytest.mark.parametrize("model", MODELS)
def test_counting_is_exact(client: anthropic.Anthropic, model: str) -> None:
    system = "You are brief."
    count = client.messages.count_tokens(
        model=model, messages=QUESTION, system=system, tools=[TOOL]
    )
    usage = client.messages.create(
        model=model, messages=QUESTION, system=system, tools=[TOOL], max_tokens=1
    ).usage
    assert count.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)
    bare = client.messages.count_tokens(model=model, messages=QUESTION)
    assert bare.input_tokens < count.input_tokens


def test_counting_works_beyond_the_window(client: anthropic.Anthropic) -> None:
    long: list[MessageParam] = [{"role": "user", "content": "word " * 9000}]
    assert client.messages.count_tokens(model="starter", messages=long).input_tokens > 9000
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 8192"):
        client.messages.create(model="starter", messages=long, max_tokens=5)


@pytest.mark.parametrize("model", MODELS)
def test_a_whole_tool_turn(client: anthropic.Anthropic, model: str) -> None:
    asked: list[MessageParam] = [{"role": "user", "content": "How is the weather in Rome?"}]
    with client.messages.stream(
        model=model,
        messages=asked,
        tools=[TOOL],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        max_tokens=80,
        extra_body=GREEDY,
    ) as stream:
        called = stream.get_final_message()
    assert called.stop_reason == "tool_use"
    call = called.content[-1]
    assert call.type == "tool_use"
    assert call.name == "weather"
    assert isinstance(call.input["city"], str)
    answer = client.messages.create(
        model=model,
        messages=[
            *asked,
            {"role": "assistant", "content": called.content},
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": call.id, "content": "Sunny, 30 degrees."}
                ],
            },
        ],
        tools=[TOOL],
        tool_choice={"type": "none"},
        max_tokens=12,
        extra_body=GREEDY,
    )
    assert [block.type for block in answer.content] == ["text"]


def test_errors_are_the_sdks_own_types(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as unknown:
        client.messages.create(model="nobody", messages=QUESTION, max_tokens=5)
    assert unknown.value.type == "not_found_error"
    with pytest.raises(anthropic.BadRequestError, match=r"tools\.0\.type"):
        client.messages.create(
            model="starter",
            messages=QUESTION,
            max_tokens=5,
            tools=[{"type": "bash_20250124", "name": "bash"}],
        )
    source: Any = {"type": "url", "url": "http://x.invalid/cat.png"}
    with pytest.raises(anthropic.BadRequestError, match=r"messages\.0\.content\.0") as image:
        client.messages.create(
            model="starter",
            messages=[{"role": "user", "content": [{"type": "image", "source": source}]}],
            max_tokens=5,
        )
    assert image.value.request_id


def test_structured_output_is_the_schemas(client: anthropic.Anthropic) -> None:
    schema = {
        "type": "object",
        "properties": {"capital": {"enum": ["Paris", "Rome"]}},
        "required": ["capital"],
        "additionalProperties": False,
    }
    answer = client.messages.create(
        model="starter",
        messages=QUESTION,
        max_tokens=40,
        output_config={"format": {"type": "json_schema", "schema": schema}},
        extra_body=GREEDY,
    )
    (block,) = answer.content
    assert block.type == "text"
    assert '"Paris"' in block.text
