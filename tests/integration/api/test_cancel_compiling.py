"""Clients that go while the grammar of their schemas compiles: nothing of them is left behind."""

import contextlib
import itertools
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from opta_lmx.models.store import ModelStore
from tests.support.process import ServerProcess, running_server
from tests.support.rawhttp import RawExchange
from tests.support.tiny import TEMPLATE, tiny_gguf, tiny_llama
from tests.support.waiting import wait_until

Json = dict[str, Any]

CHAT = "/v1/chat/completions"
TURN = [{"role": "user", "content": "hi"}]
MODELS = ("tiny-mlx", "tiny-gguf")
LONGEST_S = 30.0
SLOTS = 8
WATCHDOG = {"LMX_ENGINE__STALL_FLOOR_S": "10"}
"""Longer than one compilation takes, shorter than one in each slot."""
TOOLS, PATTERNS = 6, 900
WRONG = re.compile(r'Traceback|panicked|"level": ?"(?:error|warning)"')

_fresh = itertools.count()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiling")


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[ServerProcess]:
    store = ModelStore(home / "models")
    store.sweep()
    store.add(tiny_llama(), "tiny-mlx")
    store.add(tiny_gguf(), "tiny-gguf")
    # Knows of tools and does not show them: they would fill the window.
    template = home / "silent.jinja"
    template.write_text("{% if tools %}{% endif %}" + TEMPLATE)
    table = ", ".join(f'"{model}" = {{template = "{template}"}}' for model in MODELS)
    settings = {"LMX_ENGINE__OVERRIDES": f"{{{table}}}", "LMX_ENGINE__THREADS": "1", **WATCHDOG}
    models = ("--model", "tiny-mlx", "--model", "tiny-gguf")
    with running_server(home, *models, **settings) as running:
        yield running


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, server: ServerProcess, home: Path) -> Iterator[str]:
    """Each test leaves its model as it was: the same worker, idle, and silent about it."""
    model: str = request.param
    before = state(server, model)
    yield model
    # An answer's last byte leaves before its place is given back.
    wait_until(lambda: idle(server, model), LONGEST_S)
    after = state(server, model)
    kept = ("pid", "restarts", "state", "error")
    assert [after[name] for name in kept] == [before[name] for name in kept]
    logs = [server.log, *(home / "logs").rglob("*.log")]
    assert len(logs) > 1
    assert [found for log in logs for found in WRONG.findall(log.read_text())] == []


def heavy(model: str, schemas: str = "usual", **more: Any) -> Json:
    """A request whose grammar compiles for seconds, and that no other request shares.

    Schemas of the same name are the same, so that they are judged but once.
    """
    tag = next(_fresh)
    functions = [
        {"name": f"tool_{tag}_{at}", "parameters": patterns(f"{schemas}{at}")}
        for at in range(TOOLS)
    ]
    wanted = {
        "tools": [{"type": "function", "function": function} for function in functions],
        "tool_choice": "required",
        "parallel_tool_calls": False,
    }
    return {"model": model, "messages": TURN, "max_tokens": 4, **wanted, **more}


def patterns(tag: str) -> Json:
    members = {
        f"name_{at}": {"type": "string", "pattern": f"^(a{tag}{at}|b{at}|c{at}){{1,30}}$"}
        for at in range(PATTERNS)
    }
    return {"type": "object", "properties": members, "additionalProperties": False}


def state(server: ServerProcess, model: str) -> Json:
    return server.models()[model]


def answers(server: ServerProcess, model: str, **more: Any) -> None:
    # Greedy: a drawn answer might be over sooner, as `{}` is.
    body = {"model": model, "messages": TURN, "max_tokens": 3, "temperature": 0, **more}
    reply = server.http.post(server.url + CHAT, json=body)
    assert reply.status_code == 200, reply.text
    assert reply.json()["usage"]["completion_tokens"] == 3


def metric(server: ServerProcess, name: str, labels: str = "") -> float:
    text = server.http.get(f"{server.url}/metrics").text
    found = re.findall(rf"^opta_lmx_{name}{re.escape(labels)} (\S+)$", text, re.MULTILINE)
    return sum(map(float, found))


def idle(server: ServerProcess, model: str) -> bool:
    now = state(server, model)
    return (now["running"], now["waiting"]) == (0, 0)


@contextlib.contextmanager
def begun(server: ServerProcess, model: str, *bodies: Json) -> Generator[list[RawExchange]]:
    """Requests that hold a slot each, while their grammars compile; hung up with the block."""
    steps = state(server, model)["steps"]
    with contextlib.ExitStack() as stack:
        sent = [RawExchange(server.url, CHAT, body) for body in bodies]
        for client in sent:
            stack.callback(client.hang_up)
        wait_until(lambda: state(server, model)["running"] == len(bodies), LONGEST_S)
        assert state(server, model)["steps"] == steps
        yield sent


@pytest.mark.parametrize("stream", [False, True])
def test_who_goes_frees_the_slot_and_gets_no_token(
    server: ServerProcess, model: str, stream: bool
) -> None:
    gone = metric(server, "client_disconnects_total", f'{{route="{CHAT}"}}')
    generated = metric(server, "generation_tokens_total", f'{{model="{model}"}}')
    with begun(server, model, heavy(model, stream=stream)):
        pass
    wait_until(lambda: idle(server, model), LONGEST_S)
    answers(server, model)
    assert metric(server, "client_disconnects_total", f'{{route="{CHAT}"}}') == gone + 1
    now = metric(server, "generation_tokens_total", f'{{model="{model}"}}')
    assert now == generated + 3


def test_a_whole_line_of_them_delays_nobody_for_long(server: ServerProcess, model: str) -> None:
    """The first grammar is compiled to its end; those behind it never begin."""
    with begun(server, model, *(heavy(model) for _ in range(SLOTS - 1))):  # one is for others
        pass
    wait_until(lambda: idle(server, model), LONGEST_S)
    answers(server, model, response_format={"type": "json_object"})


def test_who_stays_is_answered_while_others_go(server: ServerProcess, model: str) -> None:
    with begun(server, model, heavy(model), heavy(model)) as (gone, stays):
        gone.hang_up()
        assert b'"finish_reason":"length"' in stays.read_until(b"system_fingerprint")
    wait_until(lambda: idle(server, model), LONGEST_S)


def test_who_goes_while_the_schemas_are_judged_frees_the_place(
    server: ServerProcess, model: str
) -> None:
    steps = state(server, model)["steps"]
    client = RawExchange(server.url, CHAT, heavy(model, f"only {model}"))
    try:
        wait_until(lambda: state(server, model)["waiting"], LONGEST_S)
    finally:
        client.hang_up()
    wait_until(lambda: idle(server, model), LONGEST_S)
    assert state(server, model)["steps"] == steps
    answers(server, model)
