"""`fit`, and `pull` of what is large: numbers before anything is fetched."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from opta_lmx.cli import downloads
from opta_lmx.core.errors import LmxError
from opta_lmx.models.hub import HubPuller
from opta_lmx.models.store import ModelStore
from tests.integration.cli.conftest import Command, Upstream
from tests.support.hub import FakeHub, Repo
from tests.support.tiny import CONTEXT, tiny_gguf
from tests.support.weights import folder_files

NOBODY = {"LMX_SERVER__PORT": "1", "LMX_ENGINE__BACKEND": "gguf"}
WEIGHTS = "model.safetensors"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub(**{"org/model": Repo(folder_files())}) as running:
        yield running


def settings(hub: FakeHub, bound: int) -> dict[str, str]:
    return NOBODY | {"LMX_MODELS__HUB_ENDPOINT": hub.url, "LMX_MODELS__CONFIRM_BYTES": str(bound)}


def test_a_stored_model_is_sized_up_without_a_server(command: Command) -> None:
    assert command("add", str(tiny_gguf()), "--name", "tiny").exit_code == 0
    found = json.loads(command("fit", "tiny", "--json", **NOBODY).stdout)
    assert (found["fits"], found["max_context"], found["origin"]) == ("now", CONTEXT, "store")
    shown = command("fit", "tiny", "--context", "128", "--slots", "2", **NOBODY)
    assert shown.exit_code == 0, shown.output
    assert "tiny fits (as asked)" in shown.stdout
    assert "caches, 2 x 128 tokens, full" in shown.stdout
    assert "(estimated" in shown.stdout


def test_what_does_not_fit_ends_with_1(command: Command) -> None:
    assert command("add", str(tiny_gguf()), "--name", "tiny").exit_code == 0
    budget = {"LMX_MEMORY__BUDGET_BYTES": "1000000"}
    refused = command("fit", "tiny", **NOBODY, **budget)
    assert refused.exit_code == 1
    assert "does not fit" in refused.stdout
    assert "none" in refused.stdout
    unknown = command("fit", "absent", **NOBODY)
    assert unknown.exit_code == 1
    assert "model_not_found" in unknown.stderr


def test_a_running_server_is_asked_as_it_knows_what_is_loaded(
    command: Command, upstream: Upstream
) -> None:
    answer = json.loads(command("fit", "starter", "--json", **NOBODY).stdout)
    answer |= {"fits": "after_unloading", "fits_for": "as asked"}
    upstream.answer("GET", "/healthz", {"status": "ok"})
    upstream.answer("POST", "/admin/models/fit", answer)
    port = upstream.url.rpartition(":")[2]
    shown = command("fit", "starter", "--slots", "2", LMX_SERVER__PORT=port)
    assert "fits once idle models are unloaded" in shown.stdout
    assert "Only its size is known" in shown.stdout
    assert upstream.seen[-1].body == {"model": "starter", "slots": 2}


def test_a_hub_model_is_sized_up_by_its_headers(command: Command, hub: FakeHub) -> None:
    found = json.loads(command("fit", "org/model", "--json", **settings(hub, 1)).stdout)
    assert (found["origin"], found["max_context"]) == ("hub", 2048)
    assert command("models", **NOBODY).stdout.startswith("No model is on disk")


def test_a_large_pull_needs_a_yes(command: Command, hub: FakeHub) -> None:
    refused = command("pull", "org/model", **settings(hub, 1))
    assert refused.exit_code == 1
    assert "licence mit" in refused.stderr
    assert "--yes" in refused.stderr
    assert not hub.sent(WEIGHTS)
    taken = command("pull", "org/model", "--yes", **settings(hub, 1))
    assert taken.exit_code == 0, taken.output
    assert "org/model is in the store" in taken.stdout


def test_a_small_pull_asks_nobody_but_says_what_it_brings(command: Command, hub: FakeHub) -> None:
    taken = command("pull", "org/model", **settings(hub, 10**9))
    assert taken.exit_code == 0, taken.output
    assert "to fetch from the hub (mlx, licence mit)" in taken.stderr
    again = command("pull", "org/model", **settings(hub, 10**9))
    assert again.exit_code == 0
    assert "to fetch" not in again.stderr


def test_a_pull_that_was_begun_was_confirmed(command: Command, hub: FakeHub, home: Path) -> None:
    repo = hub.repos["org/model"]
    repo.cut = {WEIGHTS: 0.5}
    store = ModelStore(home / "models")
    store.sweep()
    with pytest.raises(LmxError):
        HubPuller(store, endpoint=hub.url, attempts=1).pull("org/model")
    taken = command("pull", "org/model", **settings(hub, 1))
    assert taken.exit_code == 0, taken.output
    assert " of " in taken.stderr.splitlines()[0]


@pytest.mark.parametrize("answer", ["y", "n"])
def test_a_person_is_asked(
    command: Command, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr(downloads, "interactive", lambda: True)
    result = command("pull", "org/model", input=answer + "\n", **settings(hub, 1))
    assert "Fetch it?" in result.output
    assert (result.exit_code == 0) == (answer == "y")
    assert bool(hub.sent(WEIGHTS)) == (answer == "y")
