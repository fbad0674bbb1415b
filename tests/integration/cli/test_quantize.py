"""`quantize`: by this process, by a server, and ended by Ctrl-C."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from opta_lmx.cli import quantising
from opta_lmx.models.store import ModelStore
from tests.integration.cli.conftest import Command, Upstream
from tests.support.deep import deep_llama
from tests.support.tiny import tiny_llama

NOBODY = {"LMX_SERVER__PORT": "1"}
JOB = {
    "job_id": "qz-1",
    "name": "m-3bit",
    "status": "running",
    "phase": "quantising",
    "layer": "model.layers.3",
    "done_bytes": 500,
    "total_bytes": 1000,
    "error": None,
    "result": None,
}
MADE = {"size_bytes": 2000, "bits_per_weight": 3.5, "quantised_layers": 9, "kept_layers": 2}
DONE = JOB | {"status": "completed", "result": MADE}
CANCELLED = JOB | {
    "status": "cancelled",
    "error": {"code": "cancelled_by_user", "message": "The job was cancelled.", "param": None},
}


def test_without_a_server_it_is_made_here(command: Command, home: Path) -> None:
    store = ModelStore(home / "models")
    store.add(tiny_llama(), "tiny")
    result = command("quantize", "tiny", "--bits", "8", "--name", "org/small", **NOBODY)
    assert (result.exit_code, result.stdout) == (
        0,
        "org/small is in the store (6.2 MB, 9.01 bits per weight).\n",
    )
    assert "tiny: verifying 100 % of 6.2 MB" in result.stderr
    assert store.get("org/small").info.quantisation == "8bit"
    assert not (home / "jobs").exists()
    again = command("quantize", "tiny", "--name", "org/small", **NOBODY)
    assert again.exit_code == 1
    assert "[model_exists]" in again.stderr


def test_ctrl_c_leaves_nothing(home: Path) -> None:
    store = ModelStore(home / "models")
    store.add(deep_llama(), "deep")
    command = [sys.executable, "-m", "opta_lmx.cli.main", "quantize", "deep"]
    environment = {**os.environ, **NOBODY}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stderr is not None
        said = ""
        for line in run.stderr:
            said += line
            if "quantising" in line:
                run.send_signal(signal.SIGINT)
                break
        said += run.stderr.read()
        assert run.wait(10) == 130, said
    assert "Stopped; nothing of it is left." in said
    assert [entry.name for entry in store.list()] == ["deep"]
    assert list((store.root / ".tmp").glob("*")) == []


def test_a_server_does_it(command: Command, upstream: Upstream) -> None:
    upstream.answer("POST", "/admin/quantize", JOB, 202)
    upstream.answer("GET", "/admin/quantize/qz-1", DONE)
    result = command("quantize", "m", "--bits", "3", "--url", upstream.url)
    assert (result.exit_code, result.stdout) == (
        0,
        "m-3bit is in the store (2.0 kB, 3.50 bits per weight).\n",
    )
    assert upstream.seen[0].body == {"model": "m", "bits": 3}
    assert "m: quantising 50 % of 1.0 kB (model.layers.3)" in result.stderr
    assert "2 layers are as they were" in result.stderr


def test_ctrl_c_cancels_at_the_server(
    command: Command, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.answer("POST", "/admin/quantize", JOB, 202)
    upstream.answer("POST", "/admin/quantize/qz-1/cancel", CANCELLED)

    def pressed(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(quantising, "block_for", pressed)
    result = command("quantize", "m", "--url", upstream.url)
    assert (result.exit_code, result.stdout) == (130, "")
    assert upstream.seen[-1].path == "/admin/quantize/qz-1/cancel"


def test_a_job_that_failed_is_an_error(command: Command, upstream: Upstream) -> None:
    upstream.answer("POST", "/admin/quantize", CANCELLED, 202)
    result = command("quantize", "m", "--url", upstream.url)
    assert result.exit_code == 1
    assert "error: The job was cancelled. [cancelled_by_user]" in result.stderr


def test_a_named_server_that_is_not_there_is_an_error(command: Command, unused_url: str) -> None:
    result = command("quantize", "m", "--url", unused_url)
    assert result.exit_code == 1
    assert "[server_unreachable]" in result.stderr
