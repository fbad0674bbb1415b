"""Whether the LM Studio provider got what it asked for: a loaded model, and its instance id."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, cast

from scripts.openclaw.modes import CHAT
from scripts.openclaw.recorder import Exchange

LIST = "/api/v1/models"
LOAD = "/api/v1/models/load"


def judge_instances(exchanges: Sequence[Exchange], *, must_load: bool) -> list[str]:
    """What is not as it must be.

    Args:
        exchanges: everything that was asked, onboarding included.
        must_load: whether the model was not loaded when the turn began.
    """
    problems = [
        f"{one.method} {one.path} was answered with {one.status}: {bytes(one.reply[-300:])!r}"
        for one in exchanges
        if one.path in (LIST, LOAD) and one.status != 200
    ]
    loads = [one for one in exchanges if one.path == LOAD]
    if not any(one.path == LIST for one in exchanges):
        problems.append("the models were not listed")
    if must_load and not loads:
        problems.append("the model was not loaded")
    ids = {name for one in exchanges for name in _instance_ids(one)}
    asked = [_object(one.body).get("model") for one in exchanges if one.path == CHAT.path]
    problems += [
        f"the model asked is {model!r}, not one of the instances {sorted(ids)}"
        for model in asked
        if model not in ids
    ]
    return problems


def _instance_ids(exchange: Exchange) -> Iterator[str]:
    """The instances a reply names."""
    reply = _object(exchange.reply) if exchange.path in (LIST, LOAD) else {}
    if isinstance(name := reply.get("instance_id"), str) and reply.get("status") == "loaded":
        yield name
    for model in cast("list[dict[str, Any]]", reply.get("models", [])):
        for instance in cast("list[dict[str, Any]]", model.get("loaded_instances", [])):
            yield str(instance.get("id"))


def _object(text: bytes | bytearray) -> dict[str, Any]:
    try:
        value: object = json.loads(text)
    except ValueError:
        return {}
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
