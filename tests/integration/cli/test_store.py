"""`add`, `models`, `rm` and `pull` on a real store with a real, tiny model."""

import json
from pathlib import Path

import pytest

from opta_lmx.models.store import ModelStore
from tests.integration.cli.conftest import Command, Upstream
from tests.support.tiny import CONTEXT, tiny_gguf

NOBODY = {"LMX_SERVER__PORT": "1"}


@pytest.fixture
def stored(command: Command, home: Path) -> Path:
    result = command("add", str(tiny_gguf()), "--name", "org/tiny")
    assert result.exit_code == 0, result.output
    assert "org/tiny is in the store (gguf, F32, " in result.stdout
    assert "verifying" in result.stderr
    return home / "models" / "org" / "tiny"


def test_models_lists_what_is_there(command: Command, stored: Path) -> None:
    (one,) = json.loads(command("models", "--json", **NOBODY).stdout)
    size = tiny_gguf().stat().st_size
    assert one["size_bytes"] == size
    assert (one["name"], one["format"], one["context_length"]) == ("org/tiny", "gguf", CONTEXT)
    assert (one["architecture"], one["state"]) == ("llama", "-")
    lines = command("models", **NOBODY).stdout.splitlines()
    assert lines[0].split() == ["NAME", "FORMAT", "QUANT", "SIZE", "CONTEXT", "STATE"]
    assert lines[1].split()[:3] == ["org/tiny", "gguf", "F32"]


def test_models_shows_what_the_server_has_loaded(
    command: Command, stored: Path, upstream: Upstream
) -> None:
    loaded = [
        {"id": "org/tiny", "backend": "gguf", "state": "ready"},
        {"id": "org/tiny:mlx", "backend": "mlx", "state": "loading"},
    ]
    upstream.answer("GET", "/admin/status", {"models": loaded})
    port = upstream.url.rpartition(":")[2]
    (one,) = json.loads(command("models", "--json", LMX_SERVER__PORT=port).stdout)
    assert one["state"] == "ready (gguf), loading (mlx)"


def test_rm_is_the_work_of_the_server_of_this_store(
    command: Command, stored: Path, home: Path, upstream: Upstream
) -> None:
    port = upstream.url.rpartition(":")[2]
    entry = ModelStore(home / "models").get("org/tiny")
    known = {"name": "org/tiny", "created_ms": entry.created_ms}
    upstream.answer("GET", "/admin/models/available", {"data": [known]})
    path = "/admin/models/org/tiny"
    fault = {"message": "The model 'org/tiny' is being probed.", "code": "model_in_use"}
    upstream.answer("DELETE", path, {"error": fault}, 409)
    refused = command("rm", "org/tiny", "--yes", LMX_SERVER__PORT=port)
    assert refused.exit_code == 1
    assert "model_in_use" in refused.stderr
    upstream.answer("DELETE", path, {"model": "org/tiny", "freed_bytes": 5_000_000})
    done = command("rm", "org/tiny", "--yes", LMX_SERVER__PORT=port)
    assert "5.0 MB are free again" in done.stdout
    assert stored.is_dir()  # this server only says so


def test_rm_leaves_the_server_of_another_store_alone(
    command: Command, stored: Path, upstream: Upstream
) -> None:
    port = upstream.url.rpartition(":")[2]
    other = {"name": "org/tiny", "created_ms": 1}
    upstream.answer("GET", "/admin/models/available", {"data": [other]})
    assert command("rm", "org/tiny", "--yes", LMX_SERVER__PORT=port).exit_code == 0
    assert not stored.exists()
    assert [one.method for one in upstream.seen] == ["GET"]


def test_rm_goes_no_way_round_a_server_that_refuses(
    command: Command, stored: Path, upstream: Upstream
) -> None:
    port = upstream.url.rpartition(":")[2]
    upstream.answer("GET", "/admin/models/available", {"error": {"message": "No key."}}, 401)
    assert command("rm", "org/tiny", "--yes", LMX_SERVER__PORT=port).exit_code == 1
    assert stored.is_dir()


def test_a_configured_window_is_shown_but_never_a_larger_one(
    command: Command, stored: Path
) -> None:
    for asked, shown in (("512", 512), ("99999", CONTEXT)):
        result = command("models", "--json", LMX_ENGINE__CONTEXT=asked, **NOBODY)
        assert json.loads(result.stdout)[0]["context_length"] == shown


def test_rm_needs_a_yes(command: Command, stored: Path) -> None:
    refused = command("rm", "org/tiny", **NOBODY)
    assert refused.exit_code == 1
    assert stored.is_dir()
    assert command("rm", "org/tiny", "--yes", **NOBODY).exit_code == 0
    assert not stored.exists()
    assert command("models", **NOBODY).stdout.startswith("No model is on disk")


def test_rm_of_a_damaged_model_works(command: Command, stored: Path) -> None:
    (stored / "lmx-model.json").write_text("{")
    assert "broken" in command("models", "--json", **NOBODY).stdout
    assert command("rm", "org/tiny", "-y", **NOBODY).exit_code == 0
    assert not stored.exists()


def test_the_same_name_twice_is_refused(command: Command, stored: Path) -> None:
    result = command("add", str(tiny_gguf()), "--name", "org/tiny")
    assert result.exit_code == 1
    assert "model_exists" in result.stderr


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [("bad.gguf", b"GGUF" + b"\xff" * 64, "invalid_gguf"), ("x.bin", b"PK", "pickle_refused")],
)
def test_files_that_are_no_models_are_refused(
    command: Command, home: Path, name: str, data: bytes, code: str
) -> None:
    (home / name).write_bytes(data)
    result = command("add", str(home / name))
    assert result.exit_code == 1
    assert f"[{code}]" in result.stderr
    assert command("models", **NOBODY).stdout.startswith("No model is on disk")


def test_pull_refuses_a_name_that_says_nothing(command: Command) -> None:
    result = command("pull", "mystery")
    assert result.exit_code == 1
    assert "[invalid_model_name]" in result.stderr


def test_pull_may_be_forbidden(command: Command) -> None:
    result = command("pull", "org/model", LMX_MODELS__DOWNLOADS_ENABLED="false")
    assert result.exit_code == 1
    assert "[downloads_disabled]" in result.stderr


def test_a_hub_that_does_not_answer_is_a_typed_error(command: Command, unused_url: str) -> None:
    result = command("pull", "org/model", LMX_MODELS__HUB_ENDPOINT=unused_url)
    assert result.exit_code == 1
    assert result.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in result.output


def test_pull_of_what_is_there_needs_no_network(command: Command, home: Path) -> None:
    assert command("add", str(tiny_gguf()), "--name", "starter").exit_code == 0
    result = command("pull", "starter")
    assert result.exit_code == 0
    assert "starter is in the store" in result.stdout


def test_doctor_says_whether_it_fits(
    command: Command, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opta_lmx.cli.checks.backends", lambda: iter(()))
    result = command("doctor", "--json", LMX_SERVER__PORT="0")
    checks = {check["subject"]: check for check in json.loads(result.stdout)["checks"]}
    assert result.exit_code == 0
    assert checks["model org/tiny"]["state"] == "ok"
    assert f"8 slots of {CONTEXT} tokens" in checks["model org/tiny"]["detail"]
