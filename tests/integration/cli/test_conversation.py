"""`chat` at a terminal: a real process on a pseudo-terminal, as a person uses it."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cli.conftest import Reply, Upstream
from tests.integration.cli.person import PATIENCE_S, Terminal

CHAT = ("POST", "/v1/chat/completions")


@pytest.fixture
def person(home: Path, upstream: Upstream) -> Iterator[Terminal]:
    terminal = Terminal("--url", upstream.url, "--model", "m")
    yield terminal
    terminal.close()


def echo(reply: Reply, body: Any) -> None:
    """Answer with the questions asked so far, and one terminal command."""
    asked = [message["content"] for message in body["messages"] if message["role"] == "user"]
    reply.start_stream()
    reply.piece("asked: \x1b[31m")
    reply.piece("+".join(asked), "length")
    reply.end(tokens=2)


def test_a_conversation_remembers_and_forgets(person: Terminal, upstream: Upstream) -> None:
    upstream.routes[CHAT] = echo
    person.wait_for("> ")
    person.type("one\n")
    shown = person.wait_for("ended by length")
    assert "asked: [31mone" in shown
    assert "\x1b[31m" not in shown
    person.type("two\n")
    person.wait_for("one+two")
    assert [m["role"] for m in upstream.seen[-1].body["messages"]] == ["user", "assistant", "user"]
    person.type("/clear\n")
    person.wait_for("forgotten")
    person.type("three\n")
    person.wait_for("ended by length")
    assert [m["content"] for m in upstream.seen[-1].body["messages"]] == ["three"]
    person.type("/what\n")
    person.wait_for("/exit leaves")
    person.wait_for("> ")
    person.type("/exit\n")
    assert person.process.wait(PATIENCE_S) == 0


def test_an_error_does_not_end_the_conversation(person: Terminal, upstream: Upstream) -> None:
    error = {"message": "Full.", "code": "queue_full"}
    upstream.answer(*CHAT, {"error": error}, 429, Retry_After="2")
    person.wait_for("> ")
    person.type("one\n")
    person.wait_for("Full. [queue_full] (retry after 2 s)")
    upstream.routes[CHAT] = echo
    person.type("two\n")
    person.wait_for("ended by length")
    assert [m["content"] for m in upstream.seen[-1].body["messages"]] == ["two"]
    person.wait_for("> ")
    person.type("\x04")
    assert person.process.wait(PATIENCE_S) == 0


def test_ctrl_c_stops_the_answer_and_frees_the_server(person: Terminal, upstream: Upstream) -> None:
    gone = threading.Event()

    def endless(reply: Reply, _: Any) -> None:
        reply.start_stream()
        try:
            while not gone.wait(0.005):
                reply.piece("on ")
        except OSError:
            gone.set()

    upstream.routes[CHAT] = endless
    person.wait_for("> ")
    person.type("go\n")
    person.wait_for("on on on")
    person.type("\x03")
    person.wait_for("stopped")
    assert gone.wait(PATIENCE_S)
    upstream.routes[CHAT] = echo
    person.wait_for("> ")
    person.type("again\n")
    person.wait_for("go+again")
    person.wait_for("> ")
    assert person.interrupt_until_gone() == 0
