"""What a field asks for reaches the worker, by every dialect's own name for it."""

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from tests.contract.matrix import messages, ollama, responses
from tests.contract.matrix.chat import CHAT
from tests.contract.matrix.completions import COMPLETIONS
from tests.contract.matrix.model import Row, Surface
from tests.support.server import LiveServer, sim_server

Json = dict[str, Any]


class Way(NamedTuple):
    """A surface, how long an answer may be in its words, and where its text is."""

    surface: Surface
    room: Json
    text: Callable[[Json], str]


WAYS = (
    Way(CHAT, {"max_tokens": 500}, lambda body: body["choices"][0]["message"]["content"]),
    Way(COMPLETIONS, {"max_tokens": 500}, lambda body: body["choices"][0]["text"]),
    Way(
        responses.RESPONSES,
        {"max_output_tokens": 500},
        lambda body: body["output"][-1]["content"][0]["text"],
    ),
    Way(messages.MESSAGES, {"max_tokens": 500}, lambda body: body["content"][-1]["text"]),
    Way(ollama.CHAT, {"options": {"num_predict": 500}}, lambda body: body["message"]["content"]),
    Way(ollama.GENERATE, {"options": {"num_predict": 500}}, lambda body: body["response"]),
)
SAMPLING = {
    **{name: name for name in ("temperature", "top_p", "top_k", "min_p", "seed")},
    **{name: name for name in ("frequency_penalty", "presence_penalty", "repetition_penalty")},
    "repeat_penalty": "repetition_penalty",
}
BOUNDS = {"max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict"}
GRAMMARS = {"response_format", "text.format", "format", "output_config.format", "output_format"}
LOGPROBS = {"logprobs", "top_logprobs"}
CASES = [
    pytest.param(way, row, id=f"{way.surface.path}-{row.field}")
    for way in WAYS
    for row in way.surface.rows
    if row.status == "supported"
    and (
        row.field.rpartition(".")[2] in {*SAMPLING, *BOUNDS, *LOGPROBS, "logit_bias"}
        or row.field in GRAMMARS
    )
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    home = tmp_path_factory.mktemp("home")
    with sim_server(home, {"echo": {"echo_submit": True, "context": 8192}}) as live:
        yield live


def submitted(server: LiveServer, way: Way, probe: Json) -> Json:
    """What the worker was asked."""
    options = {"options": {**way.room.get("options", {}), **probe.get("options", {})}}
    nested = options if "options" in way.room else {}
    body = {"model": "echo", **way.surface.least, **way.room, **probe, **nested}
    reply = httpx.post(server.url + way.surface.path, json=body, timeout=30)
    assert reply.status_code == 200, reply.text
    return json.loads(way.text(reply.json()))


def value_of(row: Row) -> Any:
    value: Any = row.probe
    for name in row.field.split("."):
        value = value[name]
    return value


@pytest.mark.parametrize(("way", "row"), CASES)
def test_it_reaches_the_worker(server: LiveServer, way: Way, row: Row) -> None:
    name = row.field.rpartition(".")[2]
    if name in BOUNDS:
        probe: Json = {"options": {name: 499}} if "." in row.field else {name: 499}
        assert submitted(server, way, probe)["max_tokens"] == 499
        return
    before, after = submitted(server, way, {}), submitted(server, way, _without_bound(row.probe))
    if name in SAMPLING:
        wanted = SAMPLING[name]
        assert after["sampling"][wanted] == value_of(row) != before["sampling"].get(wanted)
    elif name == "logit_bias":
        assert after["logit_bias"] == [[5, -100.0]]
    elif name in LOGPROBS:
        assert before["top_logprobs"] is None
        assert after["top_logprobs"] == (0 if value_of(row) is True else value_of(row))
    else:
        assert before["grammar"] is None
        assert after["grammar"]


def _without_bound(probe: Json) -> Json:
    """The reply is the whole request: it must not be cut."""
    left = {name: value for name, value in probe.items() if name not in BOUNDS}
    if "options" in left:
        inner = {name: value for name, value in left["options"].items() if name not in BOUNDS}
        left["options"] = inner
    return left


def test_each_dialect_is_looked_at() -> None:
    looked = {case.values[0].surface.path for case in CASES}
    assert looked == {way.surface.path for way in WAYS}
    assert len(CASES) > 50
