"""Every field of the chat request has its stated meaning, or is refused by name."""

import json
from typing import Any

import msgspec
import pytest

from opta_lmx.api.openai.parse import MAX_DEPTH, ChatCall, parse_chat, peek
from opta_lmx.api.openai.wire import ChatCompletionRequest
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.types import GenerationRequest, SamplingParams

HI = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def call(**fields: Any) -> ChatCall:
    return parse_chat(msgspec.json.encode({"model": "m", "messages": HI, **fields}))


def request(**fields: Any) -> GenerationRequest:
    return call(**fields).request


def fault(body: bytes) -> LmxError:
    with pytest.raises(LmxError) as caught:
        parse_chat(body)
    return caught.value


def raw(fields: str) -> bytes:
    return f'{{"model":"m","messages":[{{"role":"user","content":"hi"}}],{fields}}}'.encode()


def test_the_least_request() -> None:
    least = call()
    assert (least.stream, least.include_usage, least.uses_tools) == (False, False, False)
    assert least.request.sampling == SamplingParams()
    assert least.request.max_tokens is None
    assert least.request.prompt.messages[0].content == "hi"


def test_sampling() -> None:
    said = {"temperature": 0, "top_p": 0.5, "top_k": 0, "min_p": 0.1, "seed": -(2**63)}
    assert request(**said).sampling == SamplingParams(0.0, 0.5, 0, 0.1, -(2**63))


def test_the_newer_limit_wins() -> None:
    assert request(max_tokens=5).max_tokens == 5
    assert request(max_tokens=5, max_completion_tokens=7).max_tokens == 7


def test_stop_is_a_string_or_a_list() -> None:
    assert request(stop="x").stop == ("x",)
    assert request(stop=["x", "y"]).stop == ("x", "y")
    assert request(stop=[]).stop == ()


def test_streaming() -> None:
    assert call(stream=True).stream
    streamed = call(stream=True, stream_options={"include_usage": True})
    assert streamed.include_usage
    assert not call(stream=True, stream_options={"include_obfuscation": False}).include_usage


def test_tools_and_their_choice() -> None:
    assert call(tools=[TOOL]).uses_tools
    assert call(tools=[TOOL], tool_choice="auto").request.prompt.tools[0].name == "look"
    none = call(tools=[TOOL], tool_choice="none")
    assert (none.uses_tools, none.request.prompt.tools) == (False, ())
    assert not call(tools=[], tool_choice="auto").uses_tools


def test_identity_and_cache() -> None:
    said = request(user="u", safety_identifier="s", prompt_cache_key="k" * 64)
    assert (said.user, said.cache_key) == ("u", "k" * 64)
    assert request(safety_identifier="s").user == "s"
    assert request(prompt_cache_key="").cache_key is None


@pytest.mark.parametrize(
    ("fields", "kwargs"),
    [
        ({"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
        ({"reasoning_effort": "none"}, {"reasoning_effort": "none", "enable_thinking": False}),
        ({"thinking": {"type": "disabled"}}, {"enable_thinking": False}),
        ({"thinking": {"type": "enabled"}}, {"enable_thinking": True}),
        (
            {"reasoning_effort": "minimal", "chat_template_kwargs": {"enable_thinking": True}},
            {"reasoning_effort": "minimal", "enable_thinking": True},
        ),
    ],
)
def test_template_variables(fields: dict[str, Any], kwargs: dict[str, Any]) -> None:
    assert request(**fields).prompt.template_kwargs == kwargs


NEUTRAL: list[dict[str, Any]] = [
    {"n": 1},
    {"frequency_penalty": 0, "presence_penalty": 0.0},
    {"logprobs": False, "top_logprobs": 0},
    {"response_format": {"type": "text"}},
    {"logit_bias": {}},
    {"store": False},
    {"service_tier": "default"},
    {"parallel_tool_calls": True},
    {"modalities": ["text"], "verbosity": "medium"},
    {"prompt_cache_retention": "24h"},
    {"metadata": {"team": "a"}},
    {"tools": [{"type": "function", "function": {"name": "f", "strict": False}}]},
    {"tools": [{"type": "function", "function": {"name": "f", "description": None}}]},
]


@pytest.mark.parametrize("fields", NEUTRAL, ids=str)
def test_what_asks_for_nothing_is_accepted(fields: dict[str, Any]) -> None:
    assert request(**fields).prompt.messages[0].content == "hi"


def test_null_asks_for_nothing_in_any_optional_field() -> None:
    optional = ChatCompletionRequest.model_fields.keys() - {"model", "messages"}
    assert request(**dict.fromkeys(optional)) == request()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"presence_penalty": False}, "presence_penalty"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"store": True}, "store"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"tools": [{**TOOL, "type": "custom"}]}, "tools.0.type"),
        (
            {"tools": [TOOL, {"type": "function", "function": {"name": "f", "strict": True}}]},
            "tools.1.function.strict",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "x": 1}}]},
            "tools.0.function.x",
        ),
        ({"web_search_options": {}}, "web_search_options"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"repetition_penalty": 1.1}, "repetition_penalty"),
        ({"max_token": 5}, "max_token"),
        (
            {"stream": True, "stream_options": {"include_usages": True}},
            "stream_options.include_usages",
        ),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}}, "thinking.budget_tokens"),
    ],
)
def test_what_is_not_supported_is_named(fields: dict[str, Any], param: str) -> None:
    error = fault(msgspec.json.encode({"model": "m", "messages": HI, **fields}))
    assert (error.kind, error.code) == (ErrorKind.UNSUPPORTED_PARAMETER, "unsupported_parameter")
    assert error.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ('"temperature":NaN', "temperature"),
        ('"temperature":-Infinity', "temperature"),
        ('"temperature":1e309', "temperature"),
        ('"temperature":-1', "temperature"),
        ('"temperature":2.1', "temperature"),
        ('"temperature":true', "temperature"),
        ('"temperature":"1"', "temperature"),
        (f'"temperature":{10**30}', "temperature"),
        ('"top_p":0', "top_p"),
        ('"top_p":1.5', "top_p"),
        ('"top_k":-1', "top_k"),
        ('"top_k":1.0', "top_k"),
        ('"min_p":-0.1', "min_p"),
        ('"max_tokens":0', "max_tokens"),
        ('"max_tokens":-1', "max_tokens"),
        ('"max_tokens":1e3', "max_tokens"),
        ('"max_tokens":true', "max_tokens"),
        (f'"max_completion_tokens":{10**30}', "max_completion_tokens"),
        (f'"max_completion_tokens":{2**40}', "max_completion_tokens"),
        (f'"seed":{2**63}', "seed"),
        ('"seed":1.5', "seed"),
        ('"stream":1', "stream"),
        ('"stream":"true"', "stream"),
        ('"stream_options":{"include_usage":true}', "stream_options"),
        ('"stream":true,"stream_options":{"include_usage":1}', "stream_options.include_usage"),
        ('"stop":5', "stop"),
        ('"stop":""', "stop.0"),
        ('"stop":["a","b","c","d","e"]', "stop"),
        ('"stop":["a",5]', "stop.1"),
        ('"tools":{}', "tools"),
        ('"tools":[5]', "tools.0"),
        ('"tools":[{"type":"function"}]', "tools.0.function"),
        ('"tools":[{"type":null,"function":{"name":"f"}}]', "tools.0.type"),
        ('"tools":[{"type":"function","function":{"name":"a b"}}]', "tools.0.function.name"),
        (
            '"tools":[{"type":"function","function":{"name":"f","parameters":[]}}]',
            "tools.0.function.parameters",
        ),
        (
            '"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"array"}}}]',
            "tools.0.function.parameters",
        ),
        (
            '"tools":[{"type":"function","function":{"name":"f","parameters":{"maximum":1e400}}}]',
            "tools.0.function.parameters.maximum",
        ),
        (f'"chat_template_kwargs":{{"a":[{10**30}]}}', "chat_template_kwargs.a.0"),
        ('"chat_template_kwargs":{"messages":[]}', "chat_template_kwargs"),
        ('"chat_template_kwargs":{"a b":1}', "chat_template_kwargs"),
        ('"prompt_cache_key":"' + "k" * 65 + '"', "prompt_cache_key"),
        ('"reasoning_effort":"huge"', "reasoning_effort"),
        ('"metadata":{"a":5}', "metadata.a"),
        ('"metadata":{' + ",".join(f'"{i}":"x"' for i in range(17)) + "}", "metadata"),
        ('"user":5', "user"),
    ],
)
def test_wrong_values_are_named(fields: str, param: str) -> None:
    error = fault(raw(fields))
    assert (error.kind, error.param) == (ErrorKind.INVALID_REQUEST, param)
    assert param in error.message


def test_two_tools_of_one_name() -> None:
    error = fault(msgspec.json.encode({"model": "m", "messages": HI, "tools": [TOOL, TOOL]}))
    assert error.param == "tools.1.function.name"


def test_more_tools_than_allowed() -> None:
    tools = [{"type": "function", "function": {"name": f"f{i}"}} for i in range(129)]
    assert (
        fault(msgspec.json.encode({"model": "m", "messages": HI, "tools": tools})).param == "tools"
    )


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"messages":[]}', "model"),
        (b'{"model":"m"}', "messages"),
        (b'{"model":"","messages":[]}', "model"),
        (b'{"model":5,"messages":[]}', "model"),
        (b'{"model":"m","messages":[]}', "messages"),
        (b'{"model":"m","messages":{}}', "messages"),
        (b'{"model":"m","messages":[5]}', "messages.0"),
    ],
)
def test_what_is_missing_is_named(body: bytes, param: str) -> None:
    error = fault(body)
    assert (error.kind, error.param) == (ErrorKind.INVALID_REQUEST, param)


GARBAGE = [
    b"",
    b"   ",
    b"hello",
    b"{",
    b'{"model":"m"',
    b'{"model":"m",}',
    b"[]",
    b"null",
    b"5",
    b"NaN",
    b'"text"',
    b"\xff\xfe{}",
    b"\xef\xbb\xbf{}",
    b'{"model":"m","messages":"\xff"}',
    b'{"model":"m","seed":' + b"9" * 5000 + b"}",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"model":"m","messages":' + b"[" * 500 + b"]" * 500 + b"}",
]


@pytest.mark.parametrize("body", GARBAGE, ids=lambda body: repr(body[:24]))
def test_garbage_is_refused_and_typed(body: bytes) -> None:
    error = fault(body)
    assert (error.kind, error.code) == (ErrorKind.INVALID_REQUEST, "invalid_json")


def test_nesting_has_a_bound() -> None:
    def nested(depth: int) -> dict[str, Any]:
        schema: dict[str, Any] = {}
        for _ in range(depth):
            schema = {"items": schema}
        return {"model": "m", "messages": HI, "chat_template_kwargs": schema}

    inside = msgspec.json.encode(nested(MAX_DEPTH - 2))
    assert parse_chat(inside).request.model == "m"
    assert fault(msgspec.json.encode(nested(MAX_DEPTH - 1))).code == "invalid_json"


def test_a_character_cut_in_half_becomes_a_replacement() -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "cut \ud83d..."}]})
    assert peek(body.encode()).model == "m"
    assert parse_chat(body.encode()).request.prompt.messages[0].content == "cut \ufffd..."


@pytest.mark.parametrize("count", [200_000])
def test_a_million_wrongs_cost_one_error(count: int) -> None:
    strings = ",".join(f'"k{i}":1' for i in range(count))
    for fields in (strings, f'"metadata":{{{strings}}}', f'"stop":[{"5," * count}5]'):
        assert fault(raw(fields)).message.count("\n") == 0


def test_peek_reads_the_model_and_the_transport() -> None:
    head = peek(raw('"stream":true'))
    assert (head.model, head.stream) == ("m", True)
    assert not peek(raw('"stream":null')).stream


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{}", "model"),
        (b'{"model":null}', "model"),
        (b'{"model":["m"]}', "model"),
        (b'{"model":"m","stream":"yes"}', "stream"),
        (b'{"model":"m","temperature":NaN}', "temperature"),
    ],
)
def test_peek_names_the_fault(body: bytes, param: str) -> None:
    with pytest.raises(LmxError) as caught:
        peek(body)
    assert (caught.value.kind, caught.value.param) == (ErrorKind.INVALID_REQUEST, param)


@pytest.mark.parametrize("body", [*GARBAGE[:13], b"[" * 100_000], ids=lambda body: repr(body[:24]))
def test_peek_refuses_garbage(body: bytes) -> None:
    with pytest.raises(LmxError) as caught:
        peek(body)
    assert caught.value.code == "invalid_json"


def test_the_body_has_a_published_schema() -> None:
    schema = ChatCompletionRequest.model_json_schema()
    assert schema["required"] == ["model", "messages"]
    assert schema["additionalProperties"] is False
