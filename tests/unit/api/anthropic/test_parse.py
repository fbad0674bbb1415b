"""What a messages request means: every field supported or refused by its name."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.api.anthropic.parse import MessagesCall, parse_count, parse_messages
from opta_lmx.api.anthropic.signatures import hidden_thinking, signature
from opta_lmx.api.fields import BodyReader
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.types import JsonOutput, Message, SamplingParams, ToolCall, ToolChoice

Json = dict[str, Any]

USER: Json = {"role": "user", "content": "hi"}
TOOL: Json = {
    "name": "look",
    "description": "Looks.",
    "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}},
}


def body(**fields: Any) -> Json:
    return {"model": "m", "max_tokens": 2048, "messages": [USER], **fields}


def parse(**fields: Any) -> MessagesCall:
    return parse_messages(body(**fields))


def turns(*messages: Json, **fields: Any) -> tuple[Message, ...]:
    return parse(messages=[*messages], **fields).request.prompt.messages


def refusal(**fields: Any) -> LmxError:
    with pytest.raises(LmxError) as caught:
        parse(**fields)
    return caught.value


def test_a_plain_request() -> None:
    call = parse()
    assert not call.stream
    assert call.request.model == "m"
    assert call.request.max_tokens == 2048
    assert call.request.prompt.messages == (Message("user", "hi"),)
    assert call.request.sampling == SamplingParams()


def test_sampling_stops_and_user() -> None:
    call = parse(
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        stop_sequences=["a", "b", "c", "d", "e"],
        metadata={"user_id": "u1"},
        stream=True,
        service_tier="standard_only",
    )
    assert call.stream
    assert call.request.sampling == SamplingParams(temperature=0.5, top_p=0.9, top_k=40)
    assert call.request.stop == ("a", "b", "c", "d", "e")
    assert call.request.user == "u1"


def test_system_text_and_blocks_come_first() -> None:
    assert turns(USER, system="be kind")[0] == Message("system", "be kind")
    blocks = [
        {"type": "text", "text": "stable", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        {"type": "text", "text": "volatile"},
    ]
    assert turns(USER, system=blocks)[0] == Message("system", "stable\nvolatile", anchors=(6,))
    mid = turns(USER, {"role": "system", "content": "now"}, USER)
    assert [turn.role for turn in mid] == ["user", "system", "user"]


def test_marked_blocks_say_where_they_end() -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    document = {"type": "document", "source": {"type": "text", "media_type": "text/plain"}}
    document["source"]["data"] = "long"
    blocks = [{"type": "text", "text": "read"}, {**document, **mark}]
    first = {"role": "user", "content": blocks}
    newest = {"role": "user", "content": [{"type": "text", "text": "so?", **mark}]}
    (turn,) = turns(first, newest, {"role": "user", "content": "the hour is late"})
    assert turn.content == "read\nlong\n\nso?\n\nthe hour is late"
    assert [turn.content[:at] for at in turn.anchors] == ["read\nlong", "read\nlong\n\nso?"]


def test_results_and_answers_are_marked_like_words() -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    call = {"type": "tool_use", "id": "toolu1", "name": "look", "input": {}}
    answer = [{"type": "text", "text": "I look."}, {"type": "text", "text": "Now.", **mark}, call]
    result = {"type": "tool_result", "tool_use_id": "toolu1", "content": "no", "is_error": True}
    found = turns(
        USER,
        {"role": "assistant", "content": answer},
        {"role": "user", "content": [{**result, **mark}]},
    )
    assert [turn.content[:at] for turn in found for at in turn.anchors] == [
        *("I look.\nNow.", "Error: no")
    ]


@pytest.mark.parametrize("empty", ["", " \n", [], [{"type": "text", "text": ""}]])
def test_instructions_without_words_are_no_turn(empty: Any) -> None:
    assert turns(USER, system=empty) == turns(USER)
    mid = turns(USER, {"role": "system", "content": empty}, USER)
    assert [turn.role for turn in mid] == ["user"]
    error = refusal(messages=[{"role": "system", "content": empty}])
    assert (error.kind, error.param) == (ErrorKind.INVALID_REQUEST, "messages")


def test_the_place_of_wrong_content_is_the_fields_own() -> None:
    assert refusal(system=5).param == "system"
    assert refusal(messages=[{"role": "user", "content": None}]).param == "messages.0.content"
    result = {"type": "tool_result", "tool_use_id": "a", "content": 5}
    error = refusal(messages=[{"role": "user", "content": [result]}])
    assert error.param == "messages.0.content.0.content"


def test_a_tool_turn() -> None:
    found = turns(
        USER,
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "where?", "signature": "any"},
                {"type": "redacted_thinking", "data": "xyz"},
                {"type": "text", "text": "I look.", "citations": None},
                {
                    "type": "tool_use",
                    "id": "toolu1",
                    "name": "look",
                    "input": {"at": "door"},
                    "caller": {"type": "direct"},
                },
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "And?"},
                {"type": "tool_result", "tool_use_id": "toolu1", "content": "a door"},
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu2",
                    "content": [{"type": "text", "text": "no"}, {"type": "text", "text": "way"}],
                    "is_error": True,
                },
                {"type": "tool_result", "tool_use_id": "toolu3"},
            ],
        },
        USER,
    )
    assert found == (
        Message("user", "hi"),
        Message(
            "assistant",
            "I look.",
            reasoning="where?",
            tool_calls=(ToolCall("toolu1", "look", '{"at":"door"}'),),
        ),
        Message("tool", "a door", tool_call_id="toolu1"),
        Message("tool", "Error: no\nway", tool_call_id="toolu2"),
        Message("tool", "", tool_call_id="toolu3"),
        Message("user", "And?\n\nhi"),
    )


def test_merged_answers_keep_their_thinking() -> None:
    def answer(thought: str, text: str) -> Json:
        thinking = {"type": "thinking", "thinking": thought, "signature": ""}
        return {"role": "assistant", "content": [thinking, {"type": "text", "text": text}]}

    found = turns(USER, answer("one", "a"), answer("two", "b"), USER)
    assert found[1] == Message("assistant", "a\n\nb", reasoning="one\n\ntwo")


@given(st.text(min_size=1))
def test_thinking_that_was_left_out_comes_back_by_its_signature(thought: str) -> None:
    carried = signature(thought, carry=True)
    assert hidden_thinking(carried) == thought
    block = {"type": "thinking", "thinking": "", "signature": carried}
    found = turns(USER, {"role": "assistant", "content": [block]}, USER)
    assert found[1].reasoning == thought


@given(st.text())
def test_any_signature_may_be_replayed(text: str) -> None:
    block = {"type": "thinking", "thinking": "kept", "signature": text}
    found = turns(USER, {"role": "assistant", "content": [block]}, USER)
    assert found[1].reasoning == "kept"
    assert hidden_thinking(signature(text, carry=False)) == ""


@pytest.mark.parametrize("broken", ["lmx2.!", "lmx2.a", "lmx2.gICA", "lmx2.é"])
def test_a_broken_signature_carries_nothing(broken: str) -> None:
    assert hidden_thinking(broken) == ""


def test_documents_of_plain_text_are_text() -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "It rains."}
    document = {"type": "document", "source": source, "title": "Weather", "context": "today"}
    assert turns({"role": "user", "content": [document]})[0].content == "Weather\ntoday\nIt rains."


def test_tools_and_how_they_are_chosen() -> None:
    tool = {**TOOL, "strict": True, "input_examples": [{"at": "sea"}], "type": "custom"}
    request = parse(tools=[tool], tool_choice={"type": "any"}).request
    (given_tool,) = request.prompt.tools
    assert given_tool.strict
    assert given_tool.parameters == TOOL["input_schema"]
    assert given_tool.description == 'Looks.\nExamples of input:\n{"at":"sea"}'
    assert request.tool_choice == ToolChoice("required")
    assert request.parallel_tool_calls
    one = parse(
        tools=[TOOL],
        tool_choice={"type": "tool", "name": "look", "disable_parallel_tool_use": True},
    ).request
    assert one.tool_choice == ToolChoice("required", "look")
    assert not one.parallel_tool_calls
    none = parse(tools=[TOOL], tool_choice={"type": "none"}).request
    assert none.prompt.tools == ()
    assert parse(tools=[TOOL]).request.tool_choice == ToolChoice("auto")


def test_thinking_and_effort_go_to_the_template() -> None:
    def kwargs(**fields: Any) -> Json:
        return parse(**fields).request.prompt.template_kwargs

    assert kwargs() == {}
    assert kwargs(thinking={"type": "disabled"}) == {"enable_thinking": False}
    assert kwargs(thinking={"type": "adaptive"}) == {"enable_thinking": True}
    budget = {"type": "enabled", "budget_tokens": 1024}
    assert kwargs(thinking=budget) == {"enable_thinking": True, "thinking_budget": 1024}
    assert kwargs(output_config={"effort": "low"}) == {"reasoning_effort": "low"}
    assert parse(thinking={"type": "adaptive", "display": "omitted"}).hide_thinking


def test_structured_output_under_both_names() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    wanted = {"type": "json_schema", "schema": schema}
    assert parse(output_config={"format": wanted}).request.output == JsonOutput(schema)
    assert parse(output_format=wanted).request.output == JsonOutput(schema)


def test_counting_takes_the_prompt_and_nothing_else() -> None:
    request = parse_count({"model": "m", "messages": [USER], "tools": [TOOL], "system": "s"})
    assert [turn.role for turn in request.prompt.messages] == ["system", "user"]
    with pytest.raises(LmxError) as caught:
        parse_count({"model": "m", "messages": [USER], "temperature": 1.0})
    assert caught.value.param == "temperature"


def test_unknown_fields_pass_where_the_operator_lets_them() -> None:
    text = {"type": "text", "text": "hi", "colour": 1, "cache_control": {"type": "ephemeral"}}
    sent = body(
        messages=[{"role": "user", "content": [text]}],
        tools=[{**TOOL, "shape": 1}],
        mood="good",
    )
    read = BodyReader(parse_messages, lenient=True)(json.dumps(sent).encode())
    assert set(read.ignored) == {"mood", "tools.0.shape", "messages.0.content.0.colour"}
    assert read.call.request.prompt.messages == (Message("user", "hi", anchors=(2,)),)


IMAGE: Json = {"type": "image", "source": {"type": "url", "url": "http://x.invalid/a.png"}}
PDF: Json = {
    "type": "document",
    "source": {"type": "base64", "media_type": "application/pdf", "data": ""},
}


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user", "content": [IMAGE]}, "messages.0.content.0.type"),
        ({"role": "user", "content": [PDF]}, "messages.0.content.0.source"),
        (
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "a", "content": [IMAGE]}],
            },
            "messages.0.content.0.content.0.type",
        ),
        (
            {"role": "user", "content": [{"type": "search_result"}]},
            "messages.0.content.0.type",
        ),
        (
            {"role": "user", "content": [{"type": "tool_use", "id": "a"}]},
            "messages.0.content.0.type",
        ),
        (
            {"role": "user", "content": [{"type": "text", "text": "a", "colour": 1}]},
            "messages.0.content.0.colour",
        ),
        ({"role": "assistant", "content": "so it"}, "messages.0.role"),
    ],
)
def test_blocks_without_a_meaning_are_named(message: Json, param: str) -> None:
    error = refusal(messages=[message])
    assert error.kind is ErrorKind.UNSUPPORTED_PARAMETER
    assert error.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": ["x"]}, "messages.0"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": [{"type": 1}]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "tool", "content": ""}]}, "messages.0.role"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 1.5}, "temperature"),
        ({"stop_sequences": [""]}, "stop_sequences.0"),
        ({"tools": [{**TOOL, "name": "a b"}]}, "tools.0.name"),
        ({"tools": [TOOL, TOOL]}, "tools.1.name"),
        ({"tools": [{"name": "look"}]}, "tools.0.input_schema"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "no"}}, "tool_choice.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "auto", "name": "look"}}, "tool_choice.name"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 4096}}, "max_tokens"),
    ],
)
def test_what_is_malformed_is_named(fields: Json, param: str) -> None:
    error = refusal(**fields)
    assert error.kind is ErrorKind.INVALID_REQUEST
    assert error.param == param


def test_a_request_without_a_limit_is_malformed() -> None:
    with pytest.raises(LmxError) as caught:
        parse_messages({"model": "m", "messages": [USER]})
    assert caught.value.param == "max_tokens"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(0, 1) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "id", "name", "input", "source"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
KINDS = st.sampled_from(["text", "thinking", "tool_use", "tool_result", "document", "image", "x"])
BLOCK = st.fixed_dictionaries(
    {"type": KINDS | JSON},
    optional={
        "text": JSON,
        "thinking": JSON,
        "signature": JSON,
        "id": JSON,
        "name": JSON,
        "input": JSON,
        "tool_use_id": JSON,
        "content": JSON,
        "source": JSON,
    },
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]) | JSON},
    optional={"content": st.lists(BLOCK, max_size=3) | JSON},
)


def read(messages: Any, system: Any) -> tuple[Message, ...] | LmxError:
    try:
        return turns(*messages, system=system)
    except LmxError as error:
        return error


@given(st.lists(MESSAGE | JSON, max_size=3), st.text(max_size=3) | st.lists(BLOCK, max_size=2))
def test_any_conversation_is_read_or_refused_by_a_place_in_it(messages: Any, system: Any) -> None:
    found = read(messages, system)
    if isinstance(found, LmxError):
        assert found.kind in (ErrorKind.INVALID_REQUEST, ErrorKind.UNSUPPORTED_PARAMETER)
        assert (found.param or "").partition(".")[0] in ("messages", "system")
        return
    assert found[-1].role != "assistant"
    for turn in found:
        for call in turn.tool_calls:
            assert isinstance(json.loads(call.arguments), dict)
