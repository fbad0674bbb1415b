"""Models that think before a call or before JSON: both are held to their schema, after thinking.

Every model is asked the same in three dialects, plain and streamed. The models are random, so
all that is valid in what they say comes from the constraint.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jsonschema_rs
import pytest

from opta_lmx.models.store import ModelStore
from tests.contract.failures import events
from tests.support.process import ServerProcess, running_server
from tests.support.thinkers import THINKERS

Json = dict[str, Any]

QUESTION = "What is the weather in Oslo?"
MODELS = tuple(f"{thinker.name}-{backend}" for thinker in THINKERS for backend in ("mlx", "gguf"))
EACH = pytest.mark.parametrize("model", MODELS)
MOST = 300
FINISH = {
    "completed": "stop",
    "incomplete": "length",
    "end_turn": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
}
WEATHER: Json = {
    "type": "object",
    "properties": {
        "city": {"$ref": "#/$defs/city"},
        "unit": {"enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
        "note": {"type": "string", "maxLength": 6},
    },
    "required": ["city", "unit", "days", "note"],
    "additionalProperties": False,
    "$defs": {"city": {"type": "string", "pattern": "^[A-Z][a-z]{1,8}$"}},
}
CLOCK: Json = {
    "type": "object",
    "properties": {"zone": {"type": ["integer", "null"], "minimum": -11, "maximum": 12}},
    "required": ["zone"],
    "additionalProperties": False,
}
TOOLS = {"get_weather": WEATHER, "get_time": CLOCK}


class Said(NamedTuple):
    """One answer, whichever dialect told it."""

    reasoning: str
    text: str
    calls: tuple[tuple[str, str], ...]
    finish: str
    tokens: int
    thought: int | None


class Dialect(NamedTuple):
    """One way to ask.

    Attributes:
        path: of the route.
        body: the request, from what is wanted of it.
        plain: reads an answer.
        streamed: reads the events of a stream.
    """

    path: str
    body: Callable[["Wanted"], Json]
    plain: Callable[[Json], Said]
    streamed: Callable[[list[Json]], Said]


class Wanted(NamedTuple):
    """`tool` names the one to be called, empty: any; None: JSON is wanted instead of calls."""

    tool: str | None
    thinks: bool = True
    most: int = MOST


# --- chat completions


def chat_body(wanted: Wanted) -> Json:
    body: Json = {
        "messages": [{"role": "user", "content": QUESTION}],
        "max_completion_tokens": wanted.most,
    }
    if not wanted.thinks:
        body["reasoning_effort"] = "none"
    if wanted.tool is None:
        schema = {"name": "weather", "strict": True, "schema": WEATHER}
        return {**body, "response_format": {"type": "json_schema", "json_schema": schema}}
    named = {"type": "function", "function": {"name": wanted.tool}}
    offered = [
        {"type": "function", "function": {"name": name, "parameters": schema}}
        for name, schema in TOOLS.items()
    ]
    choice = named if wanted.tool else "required"
    return {**body, "tools": offered, "tool_choice": choice, "parallel_tool_calls": False}


def chat_plain(answer: Json) -> Said:
    (choice,) = answer["choices"]
    message, usage = choice["message"], answer["usage"]
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    return Said(
        message.get("reasoning_content") or "",
        message["content"] or "",
        tuple((call["name"], call["arguments"]) for call in calls),
        choice["finish_reason"],
        usage["completion_tokens"],
        usage["completion_tokens_details"]["reasoning_tokens"],
    )


def chat_streamed(chunks: list[Json]) -> Said:
    reasoning, text, finish = "", "", ""
    calls: list[list[str]] = []
    for chunk in chunks[:-1]:
        (choice,) = chunk["choices"]
        delta = choice["delta"]
        assert not finish, "nothing follows the end"
        thought, words = delta.get("reasoning_content") or "", delta.get("content") or ""
        assert not (thought and (text or calls)), "thinking comes first"
        reasoning += thought
        text += words
        for part in delta.get("tool_calls") or ():
            if part["index"] == len(calls):
                calls.append([part["function"]["name"], ""])
            calls[part["index"]][1] += part["function"].get("arguments") or ""
        finish = choice["finish_reason"] or ""
    usage = chunks[-1]["usage"]
    thoughts = usage["completion_tokens_details"]["reasoning_tokens"]
    made = tuple((name, arguments) for name, arguments in calls)
    return Said(reasoning, text, made, finish, usage["completion_tokens"], thoughts)


# --- responses


def responses_body(wanted: Wanted) -> Json:
    body: Json = {"input": QUESTION, "max_output_tokens": wanted.most, "store": False}
    if not wanted.thinks:
        body["reasoning"] = {"effort": "none"}
    if wanted.tool is None:
        form = {"type": "json_schema", "name": "weather", "strict": True, "schema": WEATHER}
        return {**body, "text": {"format": form}}
    named = {"type": "function", "name": wanted.tool}
    offered = [
        {"type": "function", "name": name, "parameters": schema} for name, schema in TOOLS.items()
    ]
    choice = named if wanted.tool else "required"
    return {**body, "tools": offered, "tool_choice": choice, "parallel_tool_calls": False}


def responses_plain(answer: Json) -> Said:
    kinds = [item["type"] for item in answer["output"]]
    assert kinds == sorted(kinds, key=["reasoning", "message", "function_call"].index)
    parts: dict[str, list[Json]] = {kind: [] for kind in ("reasoning", "message", "function_call")}
    for item in answer["output"]:
        parts[item["type"]].append(item)
    calls = tuple((item["name"], item["arguments"]) for item in parts["function_call"])
    finish = FINISH[answer["status"]]
    return Said(
        "".join(part["text"] for item in parts["reasoning"] for part in item["summary"]),
        "".join(part["text"] for item in parts["message"] for part in item["content"]),
        calls,
        "tool_calls" if calls and finish == "stop" else finish,
        answer["usage"]["output_tokens"],
        answer["usage"]["output_tokens_details"]["reasoning_tokens"],
    )


def responses_streamed(told: list[Json]) -> Said:
    """What the last event tells as a whole is what the deltas before it told."""
    said = responses_plain(told[-1]["response"])

    def joined(kind: str) -> str:
        return "".join(each["delta"] for each in told if each["type"] == f"response.{kind}.delta")

    assert joined("reasoning_summary_text") == said.reasoning
    assert joined("output_text") == said.text
    assert joined("function_call_arguments") == "".join(arguments for _, arguments in said.calls)
    return said


# --- messages


def messages_body(wanted: Wanted) -> Json:
    body: Json = {
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": wanted.most,
    }
    if not wanted.thinks:
        body["thinking"] = {"type": "disabled"}
    if wanted.tool is None:
        return {**body, "output_config": {"format": {"type": "json_schema", "schema": WEATHER}}}
    choice = {"type": "tool", "name": wanted.tool} if wanted.tool else {"type": "any"}
    offered = [{"name": name, "input_schema": schema} for name, schema in TOOLS.items()]
    alone = {"disable_parallel_tool_use": True}
    return {**body, "tools": offered, "tool_choice": {**choice, **alone}}


def messages_plain(answer: Json) -> Said:
    blocks, usage = answer["content"], answer["usage"]
    return Said(
        "".join(block["thinking"] for block in blocks if block["type"] == "thinking"),
        "".join(block["text"] for block in blocks if block["type"] == "text"),
        tuple(
            (block["name"], json.dumps(block["input"]))
            for block in blocks
            if block["type"] == "tool_use"
        ),
        FINISH[answer["stop_reason"]],
        usage["output_tokens"],
        None,
    )


def messages_streamed(told: list[Json]) -> Said:
    blocks: list[Json] = []
    ending: Json = {}
    for event in told:
        if event["type"] == "content_block_start":
            blocks.append({**event["content_block"], "input": ""})
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            into = {
                "thinking_delta": "thinking",
                "text_delta": "text",
                "input_json_delta": "input",
                "signature_delta": "signature",
            }[delta["type"]]
            blocks[-1][into] += delta.get(into, delta.get("partial_json"))
        elif event["type"] == "message_delta":
            ending = event
    for block in blocks:
        block["input"] = json.loads(block["input"]) if block["type"] == "tool_use" else None
    kinds = [block["type"] for block in blocks]
    assert kinds == sorted(kinds, key=["thinking", "text", "tool_use"].index)
    return messages_plain({"content": blocks, "usage": ending["usage"], **ending["delta"]})


DIALECTS = {
    "chat": Dialect("/v1/chat/completions", chat_body, chat_plain, chat_streamed),
    "responses": Dialect("/v1/responses", responses_body, responses_plain, responses_streamed),
    "messages": Dialect("/v1/messages", messages_body, messages_plain, messages_streamed),
}


# --- asking


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    home = tmp_path_factory.mktemp("thinkers")
    store = ModelStore(home / "models")
    store.sweep()
    for thinker in THINKERS:
        store.add(thinker.folder(), f"{thinker.name}-mlx")
        store.add(thinker.gguf(), f"{thinker.name}-gguf")
    models = (part for model in MODELS for part in ("--model", model))
    with running_server(home, *models, LMX_ENGINE__THREADS="1") as running:
        yield running


def ask(server: ServerProcess, model: str, dialect: Dialect, wanted: Wanted, **more: Any) -> Said:
    body = {"model": model, "temperature": 0, **dialect.body(wanted), **more}
    if body.get("stream") and "messages" in body and "max_completion_tokens" in body:
        body["stream_options"] = {"include_usage": True}
    reply = server.http.post(server.url + dialect.path, json=body)
    assert reply.status_code == 200, reply.text
    if body.get("stream"):
        return dialect.streamed(events(reply.text))
    return dialect.plain(reply.json())


def asked_every_way(server: ServerProcess, model: str, wanted: Wanted) -> Said:
    """The answer, which is the same however it is asked for, beside the others or alone."""

    def asked(way: tuple[str, bool]) -> Said:
        said = ask(server, model, DIALECTS[way[0]], wanted, stream=way[1])
        calls = tuple((tool, json.dumps(json.loads(text))) for tool, text in said.calls)
        return said._replace(calls=calls)

    ways = [(name, stream) for name in DIALECTS for stream in (False, True)]
    with ThreadPoolExecutor(len(ways)) as pool:
        found = dict(zip(ways, pool.map(asked, ways), strict=True))
    first = found["chat", False]
    for way, said in found.items():
        expected = first if said.thought is not None else first._replace(thought=None)
        assert said == expected, way
    return first


def check_thinking(said: Said) -> None:
    assert said.reasoning.strip()
    assert said.thought
    assert said.thought < said.tokens
    assert "think>" not in said.text + "".join(text for _, text in said.calls)


def check_call(said: Said) -> str:
    """There is one call, valid, and nothing else; return its tool."""
    assert (said.finish, said.text) == ("tool_calls", "")
    ((name, arguments),) = said.calls
    jsonschema_rs.validator_for(TOOLS[name]).validate(json.loads(arguments))
    return name


@EACH
def test_a_call_that_is_required_follows_the_thinking(server: ServerProcess, model: str) -> None:
    free = asked_every_way(server, model, Wanted(""))
    check_thinking(free)
    (other,) = TOOLS.keys() - {check_call(free)}
    named = asked_every_way(server, model, Wanted(other))
    check_thinking(named)
    assert check_call(named) == other


@EACH
def test_json_of_a_schema_follows_the_thinking(server: ServerProcess, model: str) -> None:
    said = asked_every_way(server, model, Wanted(None))
    check_thinking(said)
    assert (said.finish, said.calls) == ("stop", ())
    jsonschema_rs.validator_for(WEATHER).validate(json.loads(said.text))


@pytest.mark.parametrize("model", [model for model in MODELS if model.startswith("coder")])
def test_a_model_told_not_to_think_calls_at_once(server: ServerProcess, model: str) -> None:
    said = asked_every_way(server, model, Wanted("get_weather", thinks=False))
    check_call(said)


@EACH
def test_a_seed_repeats_the_answer_streamed(server: ServerProcess, model: str) -> None:
    chat, wanted = DIALECTS["chat"], Wanted("get_weather")
    drawn = {"temperature": 1, "seed": 5}
    first = ask(server, model, chat, wanted, **drawn)
    assert first == ask(server, model, chat, wanted, stream=True, **drawn)
    assert first != ask(server, model, chat, wanted)
    check_call(first)


@EACH
@pytest.mark.parametrize("tool", ["get_weather", None])
def test_cut_anywhere_nothing_leaks(server: ServerProcess, model: str, tool: str | None) -> None:
    """Thinking, then the beginning of what would have been said: nothing else, nowhere.

    A call that was cut before it said which tool is given back as the text that it was.
    """
    chat = DIALECTS["chat"]
    whole = ask(server, model, chat, Wanted(tool))
    thought = whole.thought or 0
    for most in {1, thought - 1, thought, thought + 1, (thought + whole.tokens) // 2}:
        cut = ask(server, model, chat, Wanted(tool, most=max(most, 1)), stream=True)
        assert cut.finish == "length"
        assert whole.reasoning.startswith(cut.reasoning)
        assert cut.reasoning == whole.reasoning or most <= thought
        given_back = tool is not None and not cut.calls and most > thought
        assert (cut.text[:11] in "<tool_call>") if given_back else whole.text.startswith(cut.text)
        assert len(cut.calls) <= len(whole.calls)
        for part, (_, arguments) in zip(cut.calls, whole.calls, strict=False):
            assert part[0] == tool
            assert arguments.startswith(part[1])
