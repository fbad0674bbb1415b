"""Run commands in this process, each test with a state folder of its own."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from opta_lmx.cli.main import app

Command = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "lmx"
    folder.mkdir()
    monkeypatch.setenv("LMX_HOME", str(folder))
    return folder


@pytest.fixture
def command(home: Path) -> Command:
    def run(*arguments: str, **environment: str) -> Result:
        return CliRunner().invoke(app, arguments, env=environment, catch_exceptions=False)

    return run
