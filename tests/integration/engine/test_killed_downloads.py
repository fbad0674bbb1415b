"""A server killed in the middle of a download: what the next one knows, and how it goes on."""

import contextlib
import os
import signal
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from opta_lmx.engine import download_book
from opta_lmx.engine.download_book import DownloadBook
from tests.support.hub import FakeHub, Repo
from tests.support.process import ServerProcess, start_server
from tests.support.waiting import wait_until
from tests.support.weights import folder_files, safetensors

WEIGHTS = "model.safetensors"
SIZE = 1 << 20


def files() -> dict[str, bytes]:
    weights = safetensors({"a": ("F32", (512, 512), bytes(range(256)) * 4096)})
    return folder_files() | {WEIGHTS: weights}


@contextlib.contextmanager
def serving(home: Path, hub: FakeHub, **environment: str) -> Generator[ServerProcess]:
    server = start_server(home, LMX_MODELS__HUB_ENDPOINT=hub.url, **environment)
    try:
        server.wait_listening()
        yield server
    finally:
        server.http.close()
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait()


def downloads(server: ServerProcess) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.http.get(f"{server.url}/admin/models/downloads").json()[
        "data"
    ]
    return found


def names(server: ServerProcess) -> list[str]:
    reply = server.http.get(f"{server.url}/admin/models/available").json()
    return [one["name"] for one in reply["data"]]


def received(home: Path) -> int:
    part = home / "models" / ".partial" / "org+model" / "files" / f"{WEIGHTS}.part"
    return part.stat().st_size if part.exists() else 0


def begin_and_kill(home: Path, hub: FakeHub) -> str:
    """A download of which some bytes have come when the server is killed; its id."""
    held = threading.Event()
    hub.repos["org/model"].hold = {WEIGHTS: held}
    with serving(home, hub) as server:
        reply = server.http.post(f"{server.url}/admin/models/download", json={"model": "org/model"})
        assert reply.status_code == 202
        download_id = str(reply.json()["download_id"])
        wait_until(lambda: received(home) > 0, 20)
        assert names(server) == []
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait(10)
    held.set()
    hub.repos["org/model"].hold = {}
    return download_id


@pytest.mark.parametrize("at_once", [False, True])
def test_a_download_goes_on_after_a_kill(tmp_path: Path, at_once: bool) -> None:
    with FakeHub(**{"org/model": Repo(files())}) as hub:
        download_id = begin_and_kill(tmp_path, hub)
        kept = received(tmp_path)
        assert 0 < kept < SIZE
        environment = {"LMX_MODELS__RESUME_DOWNLOADS": "true"} if at_once else {}
        with serving(tmp_path, hub, **environment) as server:
            if not at_once:
                (job,) = downloads(server)
                assert (job["download_id"], job["status"]) == (download_id, "interrupted")
                assert kept <= job["downloaded_bytes"] < job["total_bytes"]
                assert names(server) == []
                again = server.http.post(
                    f"{server.url}/admin/models/download", json={"model": "org/model"}
                ).json()
                assert (again["download_id"], again["status"]) == (download_id, "running")
            wait_until(lambda: downloads(server)[0]["status"] == "completed", 20)
            assert names(server) == ["org/model"]
        assert hub.sent(WEIGHTS)[-1].range == f"bytes={kept}-"


def test_what_a_kill_left_can_be_given_up(tmp_path: Path) -> None:
    with FakeHub(**{"org/model": Repo(files())}) as hub:
        begin_and_kill(tmp_path, hub)
        with serving(tmp_path, hub) as server:
            freed = server.http.delete(f"{server.url}/admin/models/org/model").json()
            assert freed["freed_bytes"] > 0
            assert not (tmp_path / "models" / ".partial" / "org+model").exists()
            assert [job["status"] for job in downloads(server)] == ["cancelled"]
        assert DownloadBook(tmp_path / download_book.FILE).read() == []
