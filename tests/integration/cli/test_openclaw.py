"""`openclaw config`: the true window, from the server or from disk, printed or written."""

import json
from pathlib import Path

from tests.integration.cli.conftest import Command, Upstream
from tests.support.tiny import CONTEXT, tiny_gguf


def serve(upstream: Upstream, context: int = 32768) -> None:
    facts = {"id": "org/m", "x_opta": {"state": "ready", "context_length": context}}
    upstream.answer("GET", "/v1/models", {"object": "list", "data": [facts]})
    upstream.answer("GET", "/v1/models/org%2Fm", facts)


def test_the_window_is_the_servers(command: Command, upstream: Upstream) -> None:
    serve(upstream)
    result = command("openclaw", "config", "--url", upstream.url)
    assert result.exit_code == 0
    assert result.stderr == ""
    config = json.loads(result.stdout)
    provider = config["models"]["providers"]["opta"]
    assert provider["baseUrl"] == f"{upstream.url}/v1"
    assert provider["models"][0]["id"] == "org/m"
    assert provider["models"][0]["contextWindow"] == 32768
    assert provider["models"][0]["maxTokens"] == 8192
    assert config["agents"]["defaults"]["model"]["primary"] == "opta/org/m"


def test_a_small_window_is_warned_of(command: Command, upstream: Upstream) -> None:
    serve(upstream, 8192)
    result = command("openclaw", "config", "--url", upstream.url, "--max-tokens", "48")
    assert result.exit_code == 0
    assert "window of 8192 tokens" in result.stderr
    model = json.loads(result.stdout)["models"]["providers"]["opta"]["models"][0]
    assert (model["contextWindow"], model["maxTokens"]) == (8192, 48)


def test_without_a_server_the_store_knows(command: Command) -> None:
    nobody = {"LMX_SERVER__PORT": "1"}
    empty = command("openclaw", "config", **nobody)
    assert empty.exit_code == 1
    assert "[no_models]" in empty.stderr
    assert command("add", str(tiny_gguf()), "--name", "tiny").exit_code == 0
    for arguments in ((), ("--model", "tiny")):
        config = json.loads(command("openclaw", "config", *arguments, **nobody).stdout)
        model = config["models"]["providers"]["opta"]["models"][0]
        assert (model["id"], model["contextWindow"]) == ("tiny", CONTEXT)
    absent = command("openclaw", "config", "--model", "absent", **nobody)
    assert (absent.exit_code, "[model_not_found]" in absent.stderr) == (1, True)


def test_a_named_server_must_answer(command: Command, unused_url: str) -> None:
    result = command("openclaw", "config", "--url", unused_url)
    assert result.exit_code == 1
    assert "[server_unreachable]" in result.stderr


def test_a_server_that_does_not_tell_the_window_is_refused(
    command: Command, upstream: Upstream
) -> None:
    upstream.answer("GET", "/v1/models/m", {"id": "m", "object": "model"})
    result = command("openclaw", "config", "--url", upstream.url, "--model", "m")
    assert result.exit_code == 1
    assert "[not_our_server]" in result.stderr


def test_keys_are_written_but_not_shown(
    command: Command, upstream: Upstream, tmp_path: Path
) -> None:
    serve(upstream)
    own = {
        "LMX_SERVER__PORT": upstream.url.rpartition(":")[2],
        "LMX_SERVER__API_KEYS": '["sk-own"]',
        "OPENCLAW_CONFIG_PATH": str(tmp_path / "openclaw.json"),
    }
    printed = command("openclaw", "config", **own)
    assert upstream.seen[-1].headers["Authorization"] == "Bearer sk-own"
    assert "sk-own" not in printed.output
    written = command("openclaw", "config", "--write", **own)
    assert written.exit_code == 0
    assert "sk-own" not in written.output
    config = json.loads((tmp_path / "openclaw.json").read_text())
    assert config["models"]["providers"]["opta"]["apiKey"] == "sk-own"


def test_the_server_is_asked_with_the_key_that_is_written(
    command: Command, upstream: Upstream, tmp_path: Path
) -> None:
    serve(upstream)
    own = {
        "LMX_SERVER__PORT": upstream.url.rpartition(":")[2],
        "LMX_SERVER__API_KEYS": '["sk-full"]',
        "LMX_ACCESS__KEYS": '[{name = "bot", key = "sk-bot"}]',
        "OPENCLAW_CONFIG_PATH": str(tmp_path / "openclaw.json"),
    }
    assert command("openclaw", "config", "--write", **own).exit_code == 0
    assert {one.headers["Authorization"] for one in upstream.seen} == {"Bearer sk-bot"}
    config = json.loads((tmp_path / "openclaw.json").read_text())
    assert config["models"]["providers"]["opta"]["apiKey"] == "sk-bot"


def test_write_keeps_what_was_there(command: Command, upstream: Upstream, tmp_path: Path) -> None:
    serve(upstream)
    path = tmp_path / "openclaw.json"
    path.write_text('{"channels": {"x": 1}, "models": {"providers": {"other": {}}}}')
    result = command(
        "openclaw", "config", "--write", "--url", upstream.url, OPENCLAW_CONFIG_PATH=str(path)
    )
    assert result.exit_code == 0
    assert "openclaw.json.before-opta-lmx.1" in result.stdout
    config = json.loads(path.read_text())
    assert config["channels"] == {"x": 1}
    assert set(config["models"]["providers"]) == {"other", "opta"}


def test_write_refuses_a_file_with_comments(
    command: Command, upstream: Upstream, tmp_path: Path
) -> None:
    serve(upstream)
    path = tmp_path / "openclaw.json"
    path.write_text("// mine\n{}")
    result = command(
        "openclaw", "config", "--write", "--url", upstream.url, OPENCLAW_CONFIG_PATH=str(path)
    )
    assert result.exit_code == 1
    assert "[openclaw_config_unreadable]" in result.stderr
    assert path.read_text() == "// mine\n{}"
