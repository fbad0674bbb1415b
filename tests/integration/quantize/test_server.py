"""Quantising by the running server: to the end, cancelled, and over the server's own end."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from opta_lmx.models.store import ModelStore
from tests.support.process import ServerProcess, running_below, running_server, wait_gone
from tests.support.waiting import wait_until

pytestmark = pytest.mark.alone

ENV = {"LMX_ENGINE__THREADS": "1"}


def post(server: ServerProcess, path: str = "", **body: Any) -> httpx.Response:
    return server.http.post(f"{server.url}/admin/quantize{path}", json=body)


def get(server: ServerProcess, path: str = "") -> httpx.Response:
    return server.http.get(f"{server.url}/admin/quantize{path}")


def events(server: ServerProcess, job: str) -> Iterator[dict[str, Any]]:
    """The job's reports as they come."""
    with server.http.stream("GET", f"{server.url}/admin/quantize/{job}/events") as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        for line in reply.iter_lines():
            if line.startswith("data: {") and line != "data: {}":
                yield json.loads(line[6:])


def caught(server: ServerProcess, model: str = "deep") -> tuple[str, int]:
    """Begin a job and return when weights are being packed: its id, its process."""
    job = post(server, model=model).json()["job_id"]
    pids: list[int] = []
    for report in events(server, job):
        # The process is there long before it tells of anything.
        pids = pids or running_below(server.process.pid, "opta_lmx.backends.quantize")
        if report["phase"] in {"converting", "quantising"}:
            return job, pids[0]
    raise AssertionError("the job ended before it was seen at work")


def contents(store: ModelStore) -> list[tuple[str, str | None]]:
    """The models, and why one is broken; nothing else may lie about."""
    assert list((store.root / ".tmp").glob("*")) == []
    return [(entry.name, entry.broken) for entry in store.list()]


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[ServerProcess]:
    with running_server(home, **ENV) as started:
        yield started


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"model": "tiny", "bits": 7}, 400, "bits"),
        ({"model": "tiny", "bits": True}, 400, "bits"),
        ({"model": "tiny", "mode": "int4"}, 400, "mode"),
        ({"model": "tiny", "mode": "nvfp4", "group_size": 64}, 400, "group_size"),
        ({"model": "tiny", "output_path": "/x"}, 400, "output_path"),
        ({"model": "tiny", "name": "deep"}, 409, "name"),
        ({"model": "absent"}, 404, "model"),
        ({"bits": 4}, 400, "model"),
    ],
)
def test_what_cannot_be_is_refused_by_its_field(
    server: ServerProcess, body: dict[str, Any], status: int, param: str
) -> None:
    refused = post(server, **body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (status, param)


def test_an_unknown_job_is_not_found(server: ServerProcess) -> None:
    for reply in (
        get(server, "/qz-none"),
        get(server, "/qz-none/events"),
        post(server, "/qz-none/cancel"),
        server.http.delete(f"{server.url}/admin/quantize/qz-none"),
    ):
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "job_not_found")


@pytest.mark.parametrize("cancel", ["POST", "DELETE"])
def test_a_cancelled_job_leaves_nothing(
    server: ServerProcess, store: ModelStore, cancel: str
) -> None:
    before = contents(store)
    job, pid = caught(server)
    began = time.monotonic()
    path = f"{server.url}/admin/quantize/{job}" + ("/cancel" if cancel == "POST" else "")
    told = server.http.request(cancel, path)
    assert (told.status_code, told.json()["status"]) == (202, "cancelling")
    last = list(events(server, job))[-1]
    assert time.monotonic() - began < 2
    assert (last["status"], last["error"]["code"]) == ("cancelled", "cancelled_by_user")
    wait_gone(pid, 0.5)
    assert contents(store) == before


def test_a_process_that_dies_fails_its_job(server: ServerProcess, store: ModelStore) -> None:
    before = contents(store)
    job = post(server, model="deep").json()["job_id"]
    wait_until(lambda: running_below(server.process.pid, "opta_lmx.backends.quantize"))
    for pid in running_below(server.process.pid, "opta_lmx.backends.quantize"):
        os.kill(pid, signal.SIGKILL)
    last = list(events(server, job))[-1]
    assert (last["status"], last["error"]["code"]) == ("failed", "quantise_failed")
    assert contents(store) == before


def test_a_model_is_made_and_answers(server: ServerProcess, store: ModelStore) -> None:
    before = contents(store)
    accepted = post(server, model="tiny")
    assert accepted.status_code == 202
    job = accepted.json()
    assert (job["name"], job["mode"], job["bits"]) == ("tiny-4bit", "affine", 4)
    second = post(server, model="tiny-gguf", mode="mxfp8", name="small/eight").json()
    assert second["status"] == "queued"
    last = list(events(server, job["job_id"]))[-1]
    assert (last["status"], last["error"]) == ("completed", None)
    assert last["result"]["bits_per_weight"] < 5.1
    asked = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
    reply = server.http.post(
        f"{server.url}/v1/chat/completions", json={"model": "tiny-4bit", **asked}
    )
    assert reply.status_code == 200, reply.text
    assert reply.json()["choices"][0]["message"]["content"]
    assert server.models()["tiny-4bit"]["backend"] == "mlx"
    assert post(server, model="tiny-4bit").json()["error"]["code"] == "already_quantised"
    assert list(events(server, second["job_id"]))[-1]["status"] == "completed"
    assert [one["status"] for one in get(server).json()["data"]][-2:] == ["completed"] * 2
    again = post(server, f"/{job['job_id']}/cancel")
    assert (again.status_code, again.json()["status"]) == (200, "completed")
    assert contents(store) == sorted([*before, ("tiny-4bit", None), ("small/eight", None)])
    assert store.get("tiny-4bit").source == "quantised:tiny"


def test_jobs_over_the_end_of_their_server(tmp_path: Path, home: Path) -> None:
    """Killed with one job at work and one in line; started again; stopped with one at work."""
    own = tmp_path / "own"
    store = ModelStore(own / "models")
    for name in ("deep", "tiny"):
        store.add(home / "models" / name, name)
    before = contents(store)
    with running_server(own, **ENV) as server:
        job, pid = caught(server)
        waiting = post(server, model="tiny").json()["job_id"]
        server.process.kill()
        server.process.wait()
        wait_gone(pid, 2)
    with running_server(own, **ENV) as server:
        assert contents(store) == before
        found = get(server).json()["data"]
        assert [one["job_id"] for one in found] == [job, waiting]
        for one in found:
            assert (one["status"], one["error"]["code"]) == ("failed", "interrupted_by_restart")
            assert one["ended_ms"] >= one["created_ms"]
        third, pid = caught(server)
        began = time.monotonic()
        assert server.stop(signal.SIGTERM) == 0
        assert time.monotonic() - began < 10
        wait_gone(pid, 0.5)
    record = json.loads((own / "jobs" / "quantise" / f"{third}.json").read_text())
    assert (record["status"], record["error"]["code"]) == ("failed", "interrupted_by_restart")
    assert contents(store) == before
