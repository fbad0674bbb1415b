"""The program as a whole: its commands, exit codes, error lines, and how little it imports."""

import json
import os
import subprocess
import sys
from pathlib import Path

from opta_lmx import __version__
from tests.unit.cli.conftest import Command

COMMANDS = ["serve", "chat", "pull", "add", "models", "rm", "ps", "load", "unload", "doctor"]
GROUPS = {"config": ["explain", "path"], "openclaw": ["config"]}
HEAVY = {"fastapi", "httpx", "huggingface_hub", "pydantic", "rich", "starlette", "uvicorn"}


def test_the_version(command: Command) -> None:
    assert command("--version").output == f"opta-lmx {__version__}\n"


def test_every_command_is_there_and_explains_itself(command: Command) -> None:
    overview = command("--help").output
    for name in (*COMMANDS, *GROUPS):
        assert f"\n  {name} " in overview
    paths = [[name] for name in COMMANDS] + [[g, c] for g, names in GROUPS.items() for c in names]
    for path in paths:
        shown = command(*path, "--help")
        assert shown.exit_code == 0
        assert "Usage:" in shown.output


def test_an_unknown_command_is_misuse(command: Command) -> None:
    assert command("sevre").exit_code == 2


def test_a_refusal_is_one_line_and_exit_code_1(command: Command) -> None:
    result = command("config", "path", LMX_SERVER__PORT="many")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        (
            "error: server.port: Input should be a valid integer, "
            "from environment LMX_SERVER__PORT [invalid_config]"
        )
    ]


def test_a_refusal_cannot_drive_the_terminal(command: Command) -> None:
    result = command("config", "path", **{"LMX_A\x1b[2J\r\nB": "1"})
    assert result.exit_code == 1
    assert "\x1b" not in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_failing_file_system_is_a_line_too(command: Command, home: Path) -> None:
    (home / "plain").write_text("")
    result = command("openclaw", "config", "--write", OPENCLAW_CONFIG_PATH=str(home / "plain/x"))
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1


def test_the_process_itself_ends_with_the_code(home: Path) -> None:
    program = [sys.executable, "-m", "opta_lmx.cli.main", "rm", "absent"]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr == "error: The model 'absent' is not on disk [model_not_found]\n"


def test_a_closed_pipe_ends_quietly(home: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    program = [sys.executable, "-m", "opta_lmx.cli.main", "config", "explain"]
    done = subprocess.run(
        program, stdout=write, stderr=subprocess.PIPE, text=True, check=False, timeout=60
    )
    os.close(write)
    assert done.returncode == 1
    assert done.stderr == ""


def test_help_imports_nothing_heavy() -> None:
    probe = (
        "import json, sys; sys.argv = ['opta-lmx', '--help']\n"
        "from opta_lmx.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=60
    )
    assert set(json.loads(done.stdout.splitlines()[-1])) & HEAVY == set()


def test_serve_refuses_what_it_cannot_find(command: Command) -> None:
    result = command("serve", "--port", "0", "--model", "no-such-model")
    assert result.exit_code == 1
    assert "neither a starter" in result.stderr


def test_serve_does_not_fetch_where_that_is_forbidden(command: Command) -> None:
    result = command(
        "serve", "--port", "0", "--model", "starter", LMX_MODELS__DOWNLOADS_ENABLED="false"
    )
    assert result.exit_code == 1
    assert "downloads_disabled" in result.stderr


def test_serve_needs_keys_beyond_loopback(command: Command) -> None:
    result = command("serve", "--host", "0.0.0.0", "--port", "0")
    assert result.exit_code == 1
    assert "keys_required" in result.stderr
