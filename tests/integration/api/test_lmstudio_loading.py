"""LM Studio's load and unload over scripted models: windows, conflicts, errors in its own words."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.hub import FakeHub, Repo
from tests.support.server import LiveServer, sim_server
from tests.support.waiting import wait_until
from tests.support.weights import folder_files

LONG = "word " * 3000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    scripts: dict[str, dict[str, Any]] = {
        "m": {"max_context": 20_000},
        "slow": {"reply": LONG, "step_ms": 20},
        "cold": {"max_context": 20_000, "load_ms": 300},
        "broken": {"fail_load": "no such thing"},
    }
    with sim_server(tmp_path, scripts, slots=1) as running:
        yield running


def post(server: LiveServer, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/api/v1/models/{path}", json=body, timeout=30)


def chat(server: LiveServer, model: str) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}]}
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)


def test_the_instance_is_a_model_until_it_is_unloaded(server: LiveServer) -> None:
    loaded = post(server, "load", model="opta/m")
    assert loaded.status_code == 200, loaded.text
    answer = loaded.json()
    assert set(answer) == {"type", "instance_id", "load_time_seconds", "status"}
    assert (answer["type"], answer["status"]) == ("llm", "loaded")
    assert answer["load_time_seconds"] > 0
    assert chat(server, answer["instance_id"]).status_code == 200
    assert server.resolver.loads == ["m"]
    unloaded = post(server, "unload", instance_id=answer["instance_id"])
    assert unloaded.json() == {"instance_id": answer["instance_id"]}
    again = post(server, "unload", instance_id=answer["instance_id"])
    assert (again.status_code, again.json()["error"]["type"]) == (404, "model_not_found")


def test_a_loaded_window_that_suffices_stays(server: LiveServer) -> None:
    for wanted in (None, 4096, 100):
        reply = post(server, "load", model="m", context_length=wanted, echo_load_config=True)
        assert reply.json()["load_config"] == {"context_length": 4096}
    assert server.resolver.loads == ["m"]


def test_a_larger_window_is_loaded_anew_up_to_the_models_own(server: LiveServer) -> None:
    sizes: list[int] = []
    for wanted in (None, 8000, 64_000, 64_000, 8000):
        reply = post(server, "load", model="m", context_length=wanted, echo_load_config=True)
        assert reply.status_code == 200, reply.text
        assert reply.json()["instance_id"] == "m"
        sizes.append(reply.json()["load_config"]["context_length"])
    assert sizes == [4096, 8000, 20_000, 20_000, 20_000]
    assert server.resolver.loads == ["m", "m", "m"]
    assert chat(server, "m").status_code == 200


def test_many_ask_at_once_for_more(server: LiveServer) -> None:
    assert post(server, "load", model="m").status_code == 200

    def one(number: int) -> int:
        if number % 2:
            return chat(server, "m").status_code
        return post(server, "load", model="m", context_length=9000).status_code

    with ThreadPoolExecutor(8) as threads:
        statuses = list(threads.map(one, range(16)))
    assert set(statuses[1::2]) == {200}  # a chat that comes meanwhile waits, and is not lost
    assert set(statuses[::2]) <= {200, 409}
    wait_until(lambda: server.status("m")["state"] == "ready")
    assert post(server, "load", model="m", context_length=9000).status_code == 200
    assert server.status("m")["context_length"] == 9000
    assert len([one for one in server.app.engine.status() if one.id == "m"]) == 1


def test_loads_of_a_cold_model_agree_whatever_windows_they_want(server: LiveServer) -> None:
    """One that is loaded anew for a larger window takes those along who wanted less."""

    def one(wanted: int | None) -> httpx.Response:
        return post(server, "load", model="cold", context_length=wanted, echo_load_config=True)

    wanted = [None, 5000, 9000, None, 5000, 9000, 1000]
    with ThreadPoolExecutor(8) as threads:
        replies = list(threads.map(one, wanted))
    for asked, reply in zip(wanted, replies, strict=True):
        assert reply.status_code == 200, reply.text
        assert reply.json()["load_config"]["context_length"] >= (asked or 4096)
    assert server.status("cold")["context_length"] == 9000


def test_a_busy_model_is_not_taken_from_its_users(server: LiveServer) -> None:
    assert post(server, "load", model="slow").status_code == 200
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(chat, server, "slow")
        wait_until(lambda: server.status("slow")["running"])
        refused = post(server, "load", model="slow", context_length=9000)
        assert post(server, "load", model="slow", context_length=4096).status_code == 200
        post(server, "unload", instance_id="slow")
        answer.result()
    error = refused.json()["error"]
    assert (refused.status_code, error["type"]) == (409, "invalid_request")
    assert (error["code"], error["param"]) == ("model_busy", "context_length")
    assert "9000" in error["message"]


BAD = {"type": "invalid_request", "status": 400}
MISSING = {"type": "model_not_found", "status": 404}


@pytest.mark.parametrize(
    ("path", "body", "expected", "param"),
    [
        ("load", {}, BAD, "model"),
        ("load", {"model": ""}, BAD, "model"),
        ("load", {"model": "m", "context_length": 0}, BAD, "context_length"),
        ("load", {"model": "m", "context_length": "8k"}, BAD, "context_length"),
        ("load", {"model": "m", "gpu": "max"}, BAD, "gpu"),
        ("load", {"model": "m", "flash_attention": True}, BAD, "flash_attention"),
        ("load", {"model": "broken"}, BAD, "model"),
        ("load", {"model": "nobody"}, MISSING, "model"),
        ("unload", {"model": "m"}, BAD, "model"),
        ("unload", {"instance_id": "m"}, MISSING, "model"),
        ("download", {"model": "m", "quantization": "Q4_0"}, BAD, "quantization"),
    ],
)
def test_errors_are_in_lm_studios_words(
    server: LiveServer, path: str, body: dict[str, Any], expected: dict[str, Any], param: str
) -> None:
    reply = post(server, path, **body)
    assert set(reply.json()) == {"error"}
    error = reply.json()["error"]
    assert {"type": error["type"], "status": reply.status_code} == expected
    assert error["param"] == param
    assert error["message"]
    assert server.resolver.loads in ([], ["broken"])


def test_paths_and_bodies_nobody_knows(server: LiveServer) -> None:
    for reply in (
        httpx.get(f"{server.url}/api/v1/models/load"),
        httpx.post(f"{server.url}/api/v1/chat", json={}),
        httpx.post(f"{server.url}/api/v1/models/load", content=b"{"),
        httpx.get(f"{server.url}/api/v1/models/download/status/nothing"),
    ):
        assert 400 <= reply.status_code < 500
        assert reply.json()["error"]["type"] in ("invalid_request", "job_not_found")


def test_an_operator_may_let_unknown_fields_pass(tmp_path: Path) -> None:
    with sim_server(tmp_path, {"m": {}}, protocol={"unknown_fields": "warn"}) as server:
        reply = post(server, "load", model="m", gpu="max", flash_attention=None)
        assert reply.status_code == 200, reply.text
        assert reply.headers["x-opta-ignored-fields"] == "gpu"
        assert post(server, "load", model="m", flash_attention=True).status_code == 400


def test_a_download_is_followed_by_its_job(tmp_path: Path) -> None:
    unasked = {"downloads_enabled": False, "confirm_bytes": 0}
    with sim_server(tmp_path, {}, models=unasked) as server:
        link = "https://huggingface.co/org/name"
        begun = post(server, "download", model=link)
        assert begun.status_code == 200, begun.text
        job = begun.json()
        assert job["status"] in ("downloading", "failed")
        assert job["started_at"].endswith("Z")
        status = f"{server.url}/api/v1/models/download/status"

        def failed() -> bool:
            found = httpx.get(f"{status}/{job['job_id']}").json()
            return bool(found["status"] == "failed")

        wait_until(failed)
        listed = httpx.get(status).json()
        assert set(listed) == {"downloading", "completed", "failed", "paused"}
        assert [one["job_id"] for one in listed["failed"]] == [job["job_id"]]


def test_a_large_download_does_not_begin_unasked(tmp_path: Path) -> None:
    files = folder_files()
    size = sum(len(data) for data in files.values())
    repos = {"org/large": Repo(files), "org/small": Repo({**files, "README.json": b"{}"})}
    with FakeHub(**repos) as hub:
        bound = {"confirm_bytes": size - 1, "hub_endpoint": hub.url}
        with sim_server(tmp_path, {}, models=bound) as server:
            asked = post(server, "download", model="https://huggingface.co/org/large")
            error = asked.json()["error"]
            assert (asked.status_code, error["type"]) == (409, "invalid_request")
            assert (error["code"], error["param"]) == (
                "confirmation_required",
                "confirmation_token",
            )
            how = error["confirmation"]
            assert (how["estimated_bytes"], how["held_bytes"], how["licence"]) == (size, 0, "mit")
            assert how["free_disk_bytes"] > size
            assert 0 < how["expires_in_s"] <= 600
            assert how["confirmation_token"] in error["message"]
            status = f"{server.url}/api/v1/models/download/status"
            assert not any(httpx.get(status).json().values())
            assert not hub.sent("model.safetensors")
            token = how["confirmation_token"]
            other = post(server, "download", model="org/small", confirmation_token=token)
            assert (other.status_code, other.json()["error"]["code"]) == (
                404,
                "confirmation_not_found",
            )
            begun = post(server, "download", model="org/large", confirmation_token=token)
            assert begun.json()["status"] in ("downloading", "completed"), begun.text
            one = f"{status}/{begun.json()['job_id']}"
            wait_until(lambda: httpx.get(one).json()["status"] == "completed")
            assert httpx.get(one).json()["total_size_bytes"] == size
            spent = post(server, "download", model="org/large@main", confirmation_token=token)
            assert spent.status_code == 404


def test_where_nothing_is_fetched_that_is_said_at_once(tmp_path: Path) -> None:
    with sim_server(tmp_path, {}, models={"downloads_enabled": False}) as server:
        reply = post(server, "download", model="org/name")
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "downloads_disabled")
