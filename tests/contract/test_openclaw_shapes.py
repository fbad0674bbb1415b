"""OpenClaw's chat requests, replayed against the real program; replies read by the SDK's types."""

import json
from typing import Any

import httpx
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.contract.shapes import Shape, chat_shapes
from tests.support.process import ServerProcess

MODEL = "starter"
SHAPES = chat_shapes(MODEL, max_tokens=12, system_chars=500)


def _chunks(reply: httpx.Response) -> list[ChatCompletionChunk]:
    blocks = [line[6:] for line in reply.text.split("\n") if line.startswith("data: ")]
    assert blocks.pop() == "[DONE]"
    return [ChatCompletionChunk.model_validate(json.loads(block), strict=True) for block in blocks]


def _check_stream(reply: httpx.Response, body: dict[str, Any]) -> None:
    chunks = _chunks(reply)
    assert chunks[0].choices[0].delta.role == "assistant"
    if body.get("stream_options", {}).get("include_usage"):
        usage = chunks.pop().usage
        assert usage is not None
        assert usage.prompt_tokens > 0
        assert usage.completion_tokens <= 12
    last = chunks[-1].choices[0]
    assert last.finish_reason in ("stop", "length", "tool_calls")
    calls = any(chunk.choices[0].delta.tool_calls for chunk in chunks)
    assert calls == (last.finish_reason == "tool_calls")


@pytest.mark.parametrize("shape", SHAPES, ids=[shape.name for shape in SHAPES])
def test_every_shape_is_answered_well_formed(
    starter_server: ServerProcess, shape: Shape, model: str
) -> None:
    headers = {**shape.headers, "Authorization": "Bearer anything"}
    url = f"{starter_server.url}/v1/chat/completions"
    reply = httpx.post(url, json={**shape.body, "model": model}, headers=headers, timeout=120)
    assert reply.status_code == 200, reply.text
    if shape.body.get("stream"):
        _check_stream(reply, shape.body)
    else:
        assert reply.headers["content-type"].startswith("application/json")
        answer = ChatCompletion.model_validate(reply.json(), strict=True)
        assert answer.choices[0].message.role == "assistant"
