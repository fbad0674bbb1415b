"""The Open Responses specification of 2026-04-24 as a judge of requests, answers and events.

The schemas are the published ones without their prose. Three places are read as they are meant,
each for a stated reason (`AMENDED`); everything else is taken to the letter.
"""

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs

Json = dict[str, Any]

FILE = Path(__file__).parents[1] / "contract" / "openresponses.json"
AMENDED = {
    "JsonSchemaResponseFormat.schema": "published as null only, though the same schema requires "
    "the format that was asked for to come back; OpenAI's types require an object",
    "ReasoningItemParam.content": "published as null only; OpenAI's types hold reasoning text",
    "TextFormatParam": "published without `json_object`, which the response may hold",
}


@cache
def published() -> Json:
    """The file as it is."""
    return json.loads(FILE.read_text())


@cache
def schemas() -> Json:
    """The schemas with `AMENDED` applied."""
    found = copy.deepcopy(published()["schemas"])
    schema = found["JsonSchemaResponseFormat"]["properties"]["schema"]
    schema["anyOf"].append({"type": "object"})
    content = found["ReasoningItemParam"]["properties"]["content"]
    content["anyOf"].append(
        {"type": "array", "items": {"$ref": "#/components/schemas/ReasoningTextContent"}}
    )
    found["TextFormatParam"]["oneOf"].append(
        {"$ref": "#/components/schemas/JsonObjectResponseFormat"}
    )
    return found


@cache
def validator(name: str) -> jsonschema_rs.Validator:
    """The judge of one component."""
    components = {"components": {"schemas": schemas()}}
    return jsonschema_rs.Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}", **components}
    )


def faults(name: str, value: object) -> list[str]:
    """What a component's schema has against a value."""
    return [
        f"{error.instance_path}: {error.message}" for error in validator(name).iter_errors(value)
    ]


def valid(name: str, value: object) -> None:
    """Fail with every fault of a value."""
    assert faults(name, value) == []


@cache
def event_schemas() -> dict[str, str]:
    """The component of each type of event."""
    return {
        schemas()[name]["properties"]["type"]["enum"][0]: name for name in published()["events"]
    }


def valid_event(event: Json) -> None:
    """Fail unless an event is one of the published ones and fits its schema."""
    assert event["type"] in event_schemas(), f"{event['type']} is no published event"
    valid(event_schemas()[event["type"]], event)


def fold(events: list[Json]) -> Json:
    """Add a stream up to the response it tells, from its parts alone, checking its order.

    Everything the terminal event repeats must have been told before, so that a client that
    reads only the parts and one that reads only the end know the same.
    """
    assert [event["sequence_number"] for event in events] == [*range(len(events))]
    assert events[0]["type"] == "response.created"
    output: list[Json] = []
    done: set[int] = set()
    for event in events:
        valid_event(event)
        if "output_index" in event:
            index = event["output_index"]
            assert index not in done, "an item that is done says nothing more"
            if event["type"] == "response.output_item.added":
                assert index == len(output) == len(done), "one item after another"
                output.append(copy.deepcopy(event["item"]))
            elif event["type"] == "response.output_item.done":
                _finish(output[index], event["item"])
                done.add(index)
            else:
                _grow(output[index], event)
    last = events[-1]
    assert last["type"] in {"response.completed", "response.incomplete", "response.failed"}
    for index in set(range(len(output))) - done:
        # Only a failure leaves an item open, so that no client acts on half a call.
        assert last["type"] == "response.failed"
        if "status" in output[index]:
            output[index]["status"] = "incomplete"
    return {**last["response"], "output": output}


def _finish(item: Json, whole: Json) -> None:
    """Only what cannot be told in pieces may be new at the end."""
    late = {name: whole[name] for name in ("status", "encrypted_content") if name in whole}
    assert {**item, **late} == whole
    item |= whole


def _grow(item: Json, event: Json) -> None:
    assert event["item_id"] == item["id"]
    match event["type"].removeprefix("response."):
        case "content_part.added":
            assert event["content_index"] == len(item["content"])
            item["content"].append(copy.deepcopy(event["part"]))
        case "output_text.delta":
            part = item["content"][event["content_index"]]
            part["text"] += event["delta"]
            part["logprobs"] += event["logprobs"]
        case "output_text.done":
            part = item["content"][event["content_index"]]
            assert (part["text"], part["logprobs"]) == (event["text"], event["logprobs"])
        case "content_part.done":
            assert item["content"][event["content_index"]] == event["part"]
        case "reasoning_summary_part.added":
            assert event["summary_index"] == len(item["summary"])
            item["summary"].append(copy.deepcopy(event["part"]))
        case "reasoning_summary_text.delta":
            item["summary"][event["summary_index"]]["text"] += event["delta"]
        case "reasoning_summary_text.done":
            assert item["summary"][event["summary_index"]]["text"] == event["text"]
        case "reasoning_summary_part.done":
            assert item["summary"][event["summary_index"]] == event["part"]
        case "function_call_arguments.delta":
            item["arguments"] += event["delta"]
        case "function_call_arguments.done":
            assert item["arguments"] == event["arguments"]
        case other:
            raise AssertionError(f"{other} was not expected")


def events_of(stream: str) -> list[Json]:
    """The events of a server-sent stream, checking its form; it ends with `[DONE]`."""
    blocks = [block for block in stream.split("\n\n") if block]
    assert blocks[-1] == "data: [DONE]"
    events: list[Json] = []
    for block in blocks[:-1]:
        name, _, data = block.partition("\n")
        assert data.startswith("data: ")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events
