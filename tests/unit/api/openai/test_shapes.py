"""What the real client sends is understood, field by field."""

import msgspec
import pytest

from opta_lmx.api.fields import BodyReader
from opta_lmx.api.json_body import read_head
from opta_lmx.api.openai.parse import ChatCall, ChatParser
from tests.contract.shapes import SESSION, Shape, chat_shapes

SHAPES = {shape.name: shape for shape in chat_shapes("m", max_tokens=16)}


def parse_chat(body: bytes) -> ChatCall:
    return BodyReader(ChatParser())(body).call


def parsed(name: str) -> ChatCall:
    return parse_chat(msgspec.json.encode(SHAPES[name].body))


def roles(call: ChatCall) -> list[str]:
    return [message.role for message in call.request.prompt.messages]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_every_shape_is_understood(shape: Shape) -> None:
    body = msgspec.json.encode(shape.body)
    call = parse_chat(body)
    assert read_head(body).model == "m"
    assert call.include_usage == call.stream
    assert len(call.request.prompt.tools) == len(shape.body.get("tools", []))


def test_adjacent_user_turns_become_one() -> None:
    call = parsed("first-turn")
    assert roles(call) == ["system", "user"]
    assert "<<<BEGIN NOTES>>>" in call.request.prompt.messages[1].content


def test_tool_turns_keep_their_ids() -> None:
    call = parsed("tool-turn")
    assert roles(call) == ["system", "user", "assistant", "tool", "user"]
    _, _, calling, result, _ = call.request.prompt.messages
    assert calling.tool_calls[0].id == result.tool_call_id == "callone1"


def test_parallel_results_stay_apart() -> None:
    assert roles(parsed("parallel-tools")) == [
        "system",
        "user",
        "assistant",
        "tool",
        "tool",
        "user",
    ]


def test_compat_fields() -> None:
    request = parsed("compat").request
    assert request.prompt.messages[0].role == "system"
    assert request.prompt.template_kwargs == {"reasoning_effort": "medium"}
    assert (request.max_tokens, request.cache_key) == (16, SESSION)


def test_the_probe_asks_for_eight_tokens() -> None:
    assert parsed("probe").request.max_tokens == 8


def test_schemas_arrive_whole() -> None:
    sent = SHAPES["first-turn"].body["tools"]
    kept = parsed("first-turn").request.prompt.tools
    assert [tool.parameters for tool in kept] == [tool["function"]["parameters"] for tool in sent]
