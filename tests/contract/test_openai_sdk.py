"""The official `openai` SDK against the real program and a real model."""

from collections.abc import Iterator

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.support.clients import strict_openai
from tests.support.process import ServerProcess

QUESTION: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "What is the capital of France? Answer in one short sentence."}
]


@pytest.fixture
def client(starter_server: ServerProcess) -> Iterator[openai.OpenAI]:
    with strict_openai(starter_server.url) as sdk:
        yield sdk


def test_a_real_model_answers_sensibly(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model, messages=QUESTION, max_completion_tokens=40, temperature=0
    )
    text = answer.choices[0].message.content
    assert "Paris" in (text or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_streamed_chunks_join_to_the_plain_answer(client: openai.OpenAI, model: str) -> None:
    plain = client.chat.completions.create(
        model=model, messages=QUESTION, max_tokens=30, temperature=0
    )
    chunks = list(
        client.chat.completions.create(
            model=model,
            messages=QUESTION,
            max_tokens=30,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == plain.choices[0].message.content
    assert chunks[-1].usage is not None
    assert plain.usage is not None
    assert chunks[-1].usage.completion_tokens == plain.usage.completion_tokens
    assert chunks[-2].choices[0].finish_reason == plain.choices[0].finish_reason


def test_the_model_list_tells_the_true_window(client: openai.OpenAI, model: str) -> None:
    listed = {one.id: one for one in client.models.list()}
    assert {model, "starter-long"} <= set(listed)
    starter = client.models.retrieve(model)
    assert starter.model_dump()["x_opta"]["context_length"] == 8192


def test_errors_are_the_sdks_own_types(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="nobody", messages=QUESTION)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as unsupported:
        client.chat.completions.create(model=model, messages=QUESTION, store=True)
    assert (unsupported.value.code, unsupported.value.param) == ("unsupported_parameter", "store")
    with pytest.raises(openai.BadRequestError, match="maximum context length is 8192 tokens"):
        client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "word " * 9000}]
        )


def test_unicode_arrives_whole(client: openai.OpenAI, model: str) -> None:
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Repeat exactly: 東京 🎉 déjà vu"}],
        max_tokens=30,
        temperature=0,
        stream=True,
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert "\ufffd" not in text
