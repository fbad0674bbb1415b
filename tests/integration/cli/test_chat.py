"""`chat` with one question: streamed text, figures, and every way a stream can fail."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cli.conftest import Command, Reply, Upstream

CHAT = ("POST", "/v1/chat/completions")


def hello(reply: Reply, _: Any) -> None:
    reply.start_stream()
    reply.event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
    reply.piece("Hel")
    reply.piece("lo \x1b[1m")
    reply.piece("ünicode", "stop")
    reply.end(tokens=3, cached=7)


def test_an_answer_goes_to_stdout_and_its_figures_to_stderr(
    command: Command, upstream: Upstream
) -> None:
    upstream.routes[CHAT] = hello
    result = command("chat", "--url", upstream.url, "--model", "m", "-s", "Be brief.", "Hi?")
    assert result.exit_code == 0
    assert result.stdout == "Hello \x1b[1münicode\n"
    assert "3 tokens" in result.stderr
    assert "7 of 10 prompt tokens cached" in result.stderr
    assert upstream.seen[-1].body == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi?"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_question_may_come_through_a_pipe(command: Command, upstream: Upstream) -> None:
    upstream.routes[CHAT] = hello
    result = command("chat", "--url", upstream.url, "-m", "m", input="line 1\nline 2\n")
    assert result.exit_code == 0
    assert upstream.seen[-1].body["messages"] == [{"role": "user", "content": "line 1\nline 2"}]


def test_an_empty_pipe_is_refused(command: Command, upstream: Upstream) -> None:
    result = command("chat", "--url", upstream.url, input=" \n")
    assert result.exit_code == 1
    assert upstream.seen == []


def run(program: Sequence[str | bytes], **options: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        program, capture_output=True, text=True, timeout=60, check=False, **options
    )


def test_bytes_that_are_no_text_are_refused(home: Path, upstream: Upstream, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    program = [sys.executable, "-m", "opta_lmx.cli.main", "chat", "--url", upstream.url]
    with (tmp_path / "binary").open("rb") as file:
        piped = run(program, stdin=file)
    assert (piped.returncode, piped.stderr) == (
        1,
        "error: The input is not UTF-8 text [invalid_request]\n",
    )
    argument: list[str | bytes] = [*program, "--model", "m", b"\xff"]
    given = run(argument)
    assert given.returncode == 1
    assert len(given.stderr.splitlines()) == 1
    assert upstream.seen == []


def test_the_model_that_is_loaded_answers(command: Command, upstream: Upstream) -> None:
    upstream.routes[CHAT] = hello
    models = [
        {"id": "a", "x_opta": {"state": "available"}},
        {"id": "b", "x_opta": {"state": "ready"}},
    ]
    upstream.answer("GET", "/v1/models", {"object": "list", "data": models})
    assert command("chat", "--url", upstream.url, "Hi").exit_code == 0
    assert upstream.seen[-1].body["model"] == "b"
    upstream.answer("GET", "/v1/models", {"object": "list", "data": models[:1]})
    assert command("chat", "--url", upstream.url, "Hi").exit_code == 0
    assert upstream.seen[-1].body["model"] == "a"


def test_a_server_without_models_is_named(command: Command, upstream: Upstream) -> None:
    upstream.answer("GET", "/v1/models", {"object": "list", "data": []})
    result = command("chat", "--url", upstream.url, "Hi")
    assert result.exit_code == 1
    assert "opta-lmx pull starter" in result.stderr


def test_a_full_server_is_told_with_its_retry_after(command: Command, upstream: Upstream) -> None:
    error = {"message": "The queue is full.", "type": "rate_limit_error", "code": "queue_full"}
    upstream.answer(*CHAT, {"error": error}, 429, Retry_After="7")
    result = command("chat", "--url", upstream.url, "-m", "m", "Hi")
    assert result.exit_code == 1
    assert "error: The queue is full. [queue_full] (retry after 7 s)\n" in result.stderr


def failing(reply: Reply, _: Any) -> None:
    reply.start_stream()
    reply.piece("Half ")
    reply.event({"error": {"message": "The worker died.", "type": "server_error"}})


def cut(reply: Reply, _: Any) -> None:
    reply.start_stream()
    reply.piece("Half ")


def no_json(reply: Reply, _: Any) -> None:
    reply.start_stream()
    reply.event("{half")


@pytest.mark.parametrize(
    ("route", "words"),
    [
        (failing, "The worker died. [server_error]"),
        (cut, "in its middle [stream_cut]"),
        (no_json, "no JSON"),
        (lambda reply, _: reply.json(b"<html>", 502), "answered 502 without a typed error"),
        (lambda reply, _: reply.json({"error": "no"}, 500), "500 without a typed error"),
    ],
)
def test_a_failed_answer_is_a_typed_error(
    command: Command, upstream: Upstream, route: Any, words: str
) -> None:
    upstream.routes[CHAT] = route
    result = command("chat", "--url", upstream.url, "-m", "m", "Hi")
    assert result.exit_code == 1
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_no_server_is_told_with_what_to_do(command: Command, unused_url: str) -> None:
    result = command("chat", "--url", unused_url, "-m", "m", "Hi")
    assert result.exit_code == 1
    assert "opta-lmx serve" in result.stderr


def test_a_page_of_something_else_is_no_server_of_ours(
    command: Command, upstream: Upstream
) -> None:
    upstream.answer("GET", "/v1/models", b"<html>")
    result = command("chat", "--url", upstream.url, "Hi")
    assert result.exit_code == 1
    assert "not_our_server" in result.stderr


@pytest.mark.parametrize(
    "url", ["nonsense", "ftp://127.0.0.1", "http://[::1", "http://127.0.0.1:x"]
)
def test_an_address_that_is_none(command: Command, url: str) -> None:
    result = command("chat", "--url", url, "-m", "m", "Hi")
    assert result.exit_code == 1
    assert "[invalid_url]" in result.stderr


def test_the_key_is_shown_to_the_configured_server(command: Command, upstream: Upstream) -> None:
    upstream.routes[CHAT] = hello
    port = upstream.url.rpartition(":")[2]
    keys = {"LMX_SERVER__API_KEYS": '["sk-own"]'}
    command("chat", "-m", "m", "Hi", LMX_SERVER__PORT=port, **keys)
    assert upstream.seen[-1].headers["Authorization"] == "Bearer sk-own"
    command("chat", "--url", upstream.url, "-m", "m", "Hi", **keys)
    assert "Authorization" not in upstream.seen[-1].headers
    command("chat", "--url", upstream.url, "-m", "m", "Hi", OPTA_LMX_API_KEY="sk-given", **keys)
    assert upstream.seen[-1].headers["Authorization"] == "Bearer sk-given"
