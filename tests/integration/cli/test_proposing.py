"""`chat` with a starter: a better model is proposed once, where the hub has it."""

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from opta_lmx.cli import proposing
from opta_lmx.cli.chat import chat
from opta_lmx.cli.proposing import Proposal
from opta_lmx.cli.session import open_session
from opta_lmx.models.puller import stored_as
from opta_lmx.models.recommended import Recommended, best_for
from opta_lmx.models.store import ModelStore
from tests.integration.cli.conftest import Reply, Upstream
from tests.support.hub import FakeHub, Repo
from tests.support.tiny import tiny_gguf

BUDGET = 4 * 10**9
Configure = Callable[..., None]


class Disk:
    """As much room as a test says."""

    total = used = 0
    free = 10**12


def repo_of(model: Recommended) -> str:
    return "/".join(model.ref.split("/")[:2])


def largest() -> Recommended:
    found = best_for(BUDGET)
    assert found is not None
    return found


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub(**{repo_of(largest()): Repo({"README.md": b"hello"})}) as found:
        yield found


@pytest.fixture
def configure(home: Path, monkeypatch: pytest.MonkeyPatch, hub: FakeHub) -> Configure:
    def settings(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(f"LMX_{name}", value)

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk)
    monkeypatch.setattr("opta_lmx.backends.registry.missing_modules", lambda _: ())
    monkeypatch.setattr(proposing, "PATIENCE_S", 20.0)
    settings(MODELS__HUB_ENDPOINT=hub.url, MEMORY__BUDGET_BYTES=str(BUDGET))
    return settings


def propose(model: str = "starter", url: str | None = None) -> str:
    return Proposal(open_session(), model, url).line()


def test_the_line_says_what_it_is_and_how_to_get_it(configure: Configure, hub: FakeHub) -> None:
    best = largest()
    line = propose()
    assert best.title in line
    assert f"licence {best.licence}" in line
    assert "GB" in line
    assert line.endswith(f"opta-lmx pull {best.ref}")
    (asked,) = hub.served
    assert (asked.method, asked.path) == ("GET", f"/api/models/{repo_of(best)}")
    assert asked.authorization is None


def test_it_is_said_once(configure: Configure) -> None:
    proposal = Proposal(open_session(), "starter:gguf")
    assert [bool(proposal.line()) for _ in range(3)] == [True, False, False]


def test_nothing_is_asked_where_downloads_are_switched_off(
    configure: Configure, hub: FakeHub
) -> None:
    configure(MODELS__DOWNLOADS_ENABLED="false")
    assert propose() == ""
    assert hub.served == []


@pytest.mark.parametrize(("model", "url"), [("starter", "http://127.0.0.1:9"), ("org/own", None)])
def test_nothing_is_asked_for_another_machine_or_another_model(
    configure: Configure, hub: FakeHub, model: str, url: str | None
) -> None:
    assert propose(model, url) == ""
    assert hub.served == []


def test_what_is_on_disk_is_not_proposed(configure: Configure, home: Path, hub: FakeHub) -> None:
    best = largest()
    name = stored_as(best.ref)
    ModelStore(home / "models").add(tiny_gguf(), name)
    assert propose() == ""
    assert hub.served == []


def test_what_is_too_large_for_the_disk_or_the_engines_is_not_proposed(
    configure: Configure, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opta_lmx.backends.registry.missing_modules", lambda _: ("engine",))
    assert propose() == ""
    monkeypatch.setattr("opta_lmx.backends.registry.missing_modules", lambda _: ())
    monkeypatch.setattr(Disk, "free", 10**9)
    assert propose() == ""
    configure(MEMORY__BUDGET_BYTES=str(10**9))  # the starter itself is the largest
    assert propose() == ""
    assert hub.served == []


def test_without_a_hub_nothing_is_said(configure: Configure, hub: FakeHub, unused_url: str) -> None:
    hub.repos.clear()
    assert propose() == ""
    assert len(hub.served) == 1
    configure(MODELS__HUB_ENDPOINT=unused_url)
    assert propose() == ""


def test_a_hub_that_is_slow_is_not_waited_for(
    configure: Configure, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()

    def late(reply: Reply, _: Any) -> None:
        answered.wait(20)
        reply.json({})

    upstream.routes["GET", f"/api/models/{repo_of(largest())}"] = late
    configure(MODELS__HUB_ENDPOINT=upstream.url)
    proposal = Proposal(open_session(), "starter")
    thread = next(one for one in threading.enumerate() if one.name == "proposal")
    monkeypatch.setattr(proposing, "PATIENCE_S", 0.01)
    assert proposal.line() == ""
    answered.set()
    thread.join(20)
    assert proposal.line() == ""  # it is not said in the middle of something else, later


def test_a_conversation_with_the_starter_ends_its_first_answer_with_it(
    configure: Configure,
    upstream: Upstream,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def hello(reply: Reply, _: Any) -> None:
        reply.start_stream()
        reply.piece("Hello", "stop")
        reply.end()

    upstream.routes["POST", "/v1/chat/completions"] = hello
    upstream.answer("GET", "/v1/models", {"data": [{"id": "starter", "state": "ready"}]})
    configure(SERVER__PORT=upstream.url.rpartition(":")[2])
    typed = iter(["one", "two"])
    monkeypatch.setattr("opta_lmx.cli.chat._read_line", lambda: next(typed, None))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    chat(question=None, model=None, system=None, url=None, api_key=None, config=None)
    shown = capsys.readouterr().out
    assert shown.count("Hello") == 2
    assert shown.count("opta-lmx pull") == 1
    before, _, after = shown.partition("opta-lmx pull")
    assert (before.count("Hello"), after.count("Hello")) == (1, 1)


def test_who_works_offline_is_not_asked_for(
    configure: Configure, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: True)
    assert propose() == ""
    assert hub.served == []
