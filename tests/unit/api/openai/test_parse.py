"""Every field of the chat request has its stated meaning, or is refused by name."""

import json
from typing import Any

import msgspec
import pytest

from opta_lmx.api.fields import BodyReader
from opta_lmx.api.json_body import MAX_DEPTH, read_head
from opta_lmx.api.openai.parse import ChatCall, ChatParser
from opta_lmx.api.openai.wire import ChatCompletionRequest
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.types import GenerationRequest, JsonOutput, SamplingParams, ToolChoice

HI = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def parse_chat(body: bytes) -> ChatCall:
    return BodyReader(ChatParser())(body).call


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
    assert (least.stream, least.include_usage) == (False, False)
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


NAMED: dict[str, Any] = {"type": "function", "function": {"name": "look"}}
OTHER: dict[str, Any] = {"type": "function", "function": {"name": "hear", "strict": True}}


def test_tools_and_their_choice() -> None:
    assert request(tools=[TOOL]).tool_choice == ToolChoice()
    assert request(tools=[TOOL], tool_choice="auto").prompt.tools[0].name == "look"
    assert request(tools=[TOOL], tool_choice="none").prompt.tools == ()
    assert request(tools=[TOOL], tool_choice="required").tool_choice == ToolChoice("required")
    assert request(tools=[TOOL], tool_choice=NAMED).tool_choice == ToolChoice("required", "look")
    assert [tool.strict for tool in request(tools=[TOOL, OTHER]).prompt.tools] == [False, True]
    assert request(tools=[], tool_choice="auto").prompt.tools == ()
    assert not request(tools=[TOOL], parallel_tool_calls=False).parallel_tool_calls


def test_allowed_tools_are_the_only_ones_left() -> None:
    some = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}}
    narrowed = request(tools=[OTHER, TOOL], tool_choice=some)
    assert narrowed.tool_choice == ToolChoice("required")
    assert [tool.name for tool in narrowed.prompt.tools] == ["look"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": NAMED}, "tool_choice.function.name"),
        ({"tools": [OTHER], "tool_choice": NAMED}, "tool_choice.function.name"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"n": 17}, "n"),
    ],
)
def test_fields_that_need_another(fields: dict[str, Any], param: str) -> None:
    error = fault(msgspec.json.encode({"model": "m", "messages": HI, **fields}))
    assert (error.kind, error.param) == (ErrorKind.INVALID_REQUEST, param)


def test_answers_logprobs_and_bias() -> None:
    said = request(n=3, logprobs=True, top_logprobs=5, logit_bias={"7": -100, "9": 2.5})
    assert (said.n, said.top_logprobs) == (3, 5)
    assert said.logit_bias == ((7, -100.0), (9, 2.5))
    assert request(logprobs=True).top_logprobs == 0
    assert request().top_logprobs is None


def test_output_formats() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    named = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    assert request(response_format=named).output == JsonOutput(schema)
    assert request(response_format={"type": "json_object"}).output == JsonOutput()
    assert request(response_format={"type": "text"}).output is None


def test_unknown_fields_pass_where_the_operator_allows_it() -> None:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "hi", "mood": 1}],
        "max_token": 5,
        "tools": [{**TOOL, "function": {"name": "f", "a.b": 1}}],
    }
    read = BodyReader(ChatParser(), lenient=True)(msgspec.json.encode(body))
    assert set(read.ignored) == {"max_token", "tools.0.function.a.b", "messages.0.mood"}
    assert read.call.request.prompt.messages[0].content == "hi"
    crowded = msgspec.json.encode({**body, **{f"x{i}": 1 for i in range(65)}})
    with pytest.raises(LmxError):
        BodyReader(ChatParser(), lenient=True)(crowded)


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
        ({"store": True}, "store"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"tools": [{**TOOL, "type": "custom"}]}, "tools.0.type"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "x": 1}}]},
            "tools.0.function.x",
        ),
        ({"web_search_options": {}}, "web_search_options"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"include": ["message.output_text.logprobs"]}, "include.0"),
        ({"verbosity": "low"}, "verbosity"),
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
        ('"n":0', "n"),
        ('"n":true', "n"),
        ('"top_logprobs":21,"logprobs":true', "top_logprobs"),
        ('"frequency_penalty":2.5', "frequency_penalty"),
        ('"presence_penalty":false', "presence_penalty"),
        ('"repetition_penalty":0', "repetition_penalty"),
        ('"logit_bias":{"x":1}', "logit_bias"),
        ('"logit_bias":{"5":101}', "logit_bias"),
        ('"response_format":{"type":"xml"}', "response_format.type"),
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
    assert read_head(body.encode()).model == "m"
    assert parse_chat(body.encode()).request.prompt.messages[0].content == "cut \ufffd..."


@pytest.mark.parametrize("count", [200_000])
def test_a_million_wrongs_cost_one_error(count: int) -> None:
    strings = ",".join(f'"k{i}":1' for i in range(count))
    for fields in (strings, f'"metadata":{{{strings}}}', f'"stop":[{"5," * count}5]'):
        assert fault(raw(fields)).message.count("\n") == 0


def test_the_head_is_the_model_and_how_many_answers() -> None:
    head = read_head(raw('"n":3'))
    assert (head.model, head.answers) == ("m", 3)
    assert read_head(raw('"n":null')).answers == 1
    assert read_head(raw('"n":"many"')).answers == 1


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{}", "model"),
        (b'{"model":null}', "model"),
        (b'{"model":["m"]}', "model"),
        (b'{"model":"m","temperature":NaN}', "temperature"),
    ],
)
def test_the_head_names_the_fault(body: bytes, param: str) -> None:
    with pytest.raises(LmxError) as caught:
        read_head(body)
    assert (caught.value.kind, caught.value.param) == (ErrorKind.INVALID_REQUEST, param)


@pytest.mark.parametrize("body", [*GARBAGE[:13], b"[" * 100_000], ids=lambda body: repr(body[:24]))
def test_the_head_refuses_garbage(body: bytes) -> None:
    with pytest.raises(LmxError) as caught:
        read_head(body)
    assert caught.value.code == "invalid_json"


def test_the_body_has_a_published_schema() -> None:
    schema = ChatCompletionRequest.model_json_schema()
    assert schema["required"] == ["model", "messages"]
    assert schema["additionalProperties"] is False
