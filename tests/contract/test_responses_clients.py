"""`/v1/responses` as its clients see it: the official SDK in strict mode, and OpenClaw."""

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response

from tests.contract.matrix.extras import RESPONSES_EXTRAS
from tests.contract.openclaw_keys import RESPONSES
from tests.contract.strictness import unknown
from tests.support.clients import strict_openai
from tests.support.openresponses import events_of, fold
from tests.support.server import LiveServer, sim_server

Json = dict[str, Any]

CALL = '<tool_call> {"name": "read", "arguments": {"path": "AGENTS.md"}} </tool_call>'
SCRIPTS: dict[str, Json] = {
    "plain": {"reply": "one two three four"},
    "caller": {"reply": f"Let me look. {CALL} {CALL}"},
    "dies": {"reply": "one two three four", "die_at_step": 3},
}
EXTRAS = RESPONSES_EXTRAS.keys()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with sim_server(tmp_path_factory.mktemp("home"), SCRIPTS) as live:
        yield live


@pytest.fixture
def http(server: LiveServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=20) as client:
        yield client


@pytest.fixture
def sdk(server: LiveServer) -> Iterator[openai.OpenAI]:
    with strict_openai(server.url, timeout_s=20) as client:
        yield client


# ------------------------------------------------------------------------ the official SDK


def test_the_sdk_reads_every_answer_strictly(sdk: openai.OpenAI) -> None:
    response = sdk.responses.create(
        model="caller",
        input="hi",
        tools=[
            {"type": "function", "name": "read", "parameters": {"type": "object"}, "strict": False}
        ],
        include=["message.output_text.logprobs", "reasoning.encrypted_content"],
        top_logprobs=1,
        metadata={"a": "b"},
        text={"format": {"type": "text"}},
        reasoning={"effort": "low", "summary": "auto"},
    )
    assert isinstance(response, Response)
    assert [item.type for item in response.output] == ["message", "function_call", "function_call"]
    assert unknown(response) <= EXTRAS
    again = sdk.responses.retrieve(response.id)
    assert again == response
    items = sdk.responses.input_items.list(response.id, order="asc", limit=1)
    assert [item.type for item in items.data] == ["message"]
    counted = sdk.responses.input_tokens.count(model="caller", input="hi")
    assert counted.input_tokens > 0
    compacted = sdk.responses.compact(model="plain", previous_response_id=response.id)
    assert compacted.output[0].type == "compaction"
    assert unknown(compacted) == set()
    sdk.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(response.id)


def test_the_sdk_reads_every_event_strictly(sdk: openai.OpenAI) -> None:
    seen: set[str] = set()
    with sdk.responses.stream(
        model="caller",
        input="hi",
        tools=[
            {"type": "function", "name": "read", "parameters": {"type": "object"}, "strict": False}
        ],
        include=["message.output_text.logprobs"],
    ) as stream:
        for event in stream:
            seen.add(event.type)
            assert unknown(event) <= EXTRAS | {"snapshot", "parsed", "parsed_arguments"}
        final = stream.get_final_response()
    assert "response.output_text.delta" in seen
    assert "response.function_call_arguments.delta" in seen
    assert final.output_text.strip() == "Let me look."
    assert final.status == "completed"


def test_the_sdk_reads_a_failure_strictly(sdk: openai.OpenAI) -> None:
    events = [*sdk.responses.create(model="dies", input="hi", stream=True)]
    assert events[-1].type == "response.failed"
    assert events[-1].response.error is not None
    assert events[-1].response.error.code == "server_error"


# -------------------------------------------------------------------------------- OpenClaw


EVERY_FLAG: Json = {name: value for extra in RESPONSES.also for name, value in extra.items()}


def openclaw(model: str, **fields: Any) -> Json:
    """A first turn of OpenClaw's, with room for an answer."""
    turn = {"input": RESPONSES.body["input"][:2], "max_output_tokens": 64}
    return {"model": model, **RESPONSES.body, **turn, **fields}


@pytest.mark.parametrize("fields", [{}, EVERY_FLAG], ids=["default", "every-flag"])
def test_openclaws_turns_are_answered(http: httpx.Client, fields: Json) -> None:
    body = openclaw("caller", **fields)
    reply = http.post("/v1/responses", json=body, headers=RESPONSES.headers)
    assert reply.status_code == 200, reply.text
    response = fold(events_of(reply.text))
    call = response["output"][1]
    follow = [
        *body["input"],
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Let me look.", "annotations": []}],
        },
        {k: call[k] for k in ("type", "call_id", "name", "arguments")},
        {"type": "function_call_output", "call_id": call["call_id"], "output": "hello\n"},
    ]
    reply = http.post("/v1/responses", json={**openclaw("plain", **fields), "input": follow})
    assert reply.status_code == 200, reply.text
    assert fold(events_of(reply.text))["status"] == "completed"
