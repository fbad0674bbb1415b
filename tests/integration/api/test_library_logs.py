"""What libraries write to the log, the server under us among them, is in our form and masked."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from opta_lmx.observability.libraries import told_by_libraries
from opta_lmx.observability.metrics import MetricsRegistry
from opta_lmx.observability.telemetry import OperatorTelemetry, make_logger
from opta_lmx.security.redaction import Redactor
from tests.support.process import ServerProcess

SECRET = "Zq8Xw3Vb6Nm1Kj4Hg7Fd0Sa5Po2Iu9Yt6Re3Wq1Lk8J"
KEY = f"lmx_abcd1234_{SECRET}"

FAULTY = f"""
import logging, sys
from pathlib import Path
from opta_lmx import app
from opta_lmx.api.guard import Guard
from opta_lmx.config.settings import Settings
from opta_lmx.serving.catalogue import Catalogue

passed = Guard.__call__

def within(self, *_, **__):
    logging.getLogger("some.library").error("connecting with %s\\n\\x1b[2J", "{KEY}")
    logging.getLogger("some.library").error("%d of %d", "misfit {KEY}")
    raise RuntimeError("within {KEY}")

async def around(self, scope, receive, send):
    if scope["path"] == "/around":
        raise RuntimeError("around {KEY}")
    await passed(self, scope, receive, send)

Catalogue.list = within
Guard.__call__ = around
settings = Settings.model_validate({{"server": {{"port": 0}}, "logging": {{"format": "json"}}}})
sys.exit(app.serve(settings, Path(sys.argv[1]), []))
"""


def test_a_fault_is_told_once_and_without_keys(tmp_path: Path) -> None:
    log = tmp_path / "stderr.txt"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", FAULTY, str(tmp_path / "home")],
            stderr=stderr,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        server = ServerProcess(process, log)
        try:
            server.wait_listening()
            assert httpx.get(f"{server.url}/v1/models", timeout=30).status_code == 500
            assert httpx.get(f"{server.url}/around", timeout=30).status_code == 500
        finally:
            assert server.stop() == 0
    text = log.read_text()
    assert SECRET[:12] not in text
    assert "\x1b" not in text
    told = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert [line["event"] for line in told if "exception" in line] == [
        "unforeseen error",
        "library message",
    ]
    assert sum("within lmx_abcd1234_***" in line for line in text.splitlines()) == 1
    assert sum("around lmx_abcd1234_***" in line for line in text.splitlines()) == 1
    assert any(line.get("said", "").startswith("connecting with lmx_abcd1234_***") for line in told)
    assert any(line.get("said") == "%d of %d (TypeError)" for line in told)
    assert all(line.startswith(("{", "Opta LMX")) for line in text.splitlines()), text


def test_levels_of_libraries_are_ours(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    library = logging.getLogger("some.library")
    with log.open("w") as stream:
        logger = make_logger("info", "json", stream, Redactor())
        with told_by_libraries(OperatorTelemetry(MetricsRegistry(), logger)):
            library.log(35, "between the levels")
            library.info("not told")
        library.error("told elsewhere by now")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["level"], line["said"]) for line in lines] == [
        ("warning", "between the levels"),
    ]


class Unspeakable:
    """What raises when it is to be said."""

    def __str__(self) -> str:
        raise RuntimeError(f"no {KEY}")


def test_no_library_fails_by_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Those of the test runner fail by such words.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    log = tmp_path / "log.txt"
    library = logging.getLogger("some.library")
    with log.open("w") as stream:
        logger = make_logger("info", "json", stream, Redactor())
        with told_by_libraries(OperatorTelemetry(MetricsRegistry(), logger)):
            library.warning("%(missing)s", {"there": 1})
            library.warning("of %s", Unspeakable())
            library.warning(Unspeakable())
            library.error("raised", exc_info=RuntimeError(Unspeakable()))
    text = log.read_text()
    assert SECRET not in text
    said = [json.loads(line)["said"] for line in text.splitlines()]
    assert said == [
        "%(missing)s (KeyError)",
        "of %s (RuntimeError)",
        "Unspeakable (RuntimeError)",
        "raised",
    ]
