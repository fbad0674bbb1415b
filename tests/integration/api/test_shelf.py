"""Model management over HTTP, with real models: list, delete, fit, probe, fetch in two steps."""

import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from opta_lmx.models.recommended import recommended
from opta_lmx.models.store import ModelStore
from tests.support.hub import FakeHub, Repo
from tests.support.process import ServerProcess, running_server
from tests.support.tiny import tiny_gguf, tiny_llama
from tests.support.waiting import wait_until
from tests.support.weights import folder_files, safetensors

WEIGHTS = "model.safetensors"
REFUSED = ("invalid_model_name", "model_not_found", "unknown_path")
CONFIG = """
[engine]
backend = "gguf"
threads = 1
slots = 2
[engine.overrides.tiny]
draft = "helper"
"""


def large() -> dict[str, bytes]:
    """A model folder of more than 1 MB."""
    weights = safetensors({"a": ("F32", (512, 512), bytes(1 << 20))})
    return folder_files() | {WEIGHTS: weights}


@pytest.fixture(scope="module")
def hub() -> Generator[FakeHub]:
    repos = {
        "org/large": Repo(large()),
        "org/held": Repo(large()),
        "org/small": Repo(folder_files()),
    }
    with FakeHub(**repos) as running:
        yield running


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    store = ModelStore(home / "models")
    store.sweep()
    for name in ("tiny", "helper", "org/spare"):
        store.add(tiny_gguf(), name)
    store.add(tiny_llama(), "folder")
    (home / "config.toml").write_text(CONFIG)
    return home


@pytest.fixture(scope="module")
def server(home: Path, hub: FakeHub) -> Generator[ServerProcess]:
    bound = {"LMX_MODELS__CONFIRM_BYTES": "1000000", "LMX_MODELS__HUB_ENDPOINT": hub.url}
    with running_server(home, **bound) as running:
        yield running


def ask(server: ServerProcess, method: str, path: str, **body: Any) -> httpx.Response:
    content = {"json": body} if body else {}
    return server.http.request(method, f"{server.url}/admin/models{path}", timeout=120, **content)


def post(server: ServerProcess, path: str, **body: Any) -> dict[str, Any]:
    reply = ask(server, "POST", path, **body)
    assert reply.is_success, reply.text
    found: dict[str, Any] = reply.json()
    return found


def code(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


def available(server: ServerProcess) -> dict[str, dict[str, Any]]:
    data = ask(server, "GET", "/available").json()["data"]
    return {one["name"]: one for one in data}


def test_what_is_on_disk_and_what_is_loaded(server: ServerProcess) -> None:
    models = available(server)
    assert {"tiny", "helper", "org/spare", "folder"} <= set(models)
    spare, folder = models["org/spare"], models["folder"]
    assert (spare["format"], spare["kind"], spare["loaded"]) == ("gguf", "chat", [])
    assert spare["size_bytes"] == tiny_gguf().stat().st_size
    assert spare["context_length"] > 0
    assert spare["created_ms"] > 0
    assert folder["format"] == "mlx"
    server.load("org/spare")
    assert available(server)["org/spare"]["loaded"] == ["org/spare"]
    (loaded,) = ask(server, "GET", "").json()["data"]
    assert (loaded["id"], loaded["state"], loaded["slots"]) == ("org/spare", "ready", 2)
    assert loaded["memory_bytes"] > spare["size_bytes"]
    post(server, "/unload", model="org/spare")
    assert ask(server, "GET", "").json()["data"] == []


def test_a_model_in_use_stays_and_one_that_is_not_goes(server: ServerProcess, home: Path) -> None:
    server.load("tiny")
    for name in ("tiny", "helper"):
        refused = ask(server, "DELETE", f"/{name}")
        assert code(refused) == (409, "model_loaded")
        assert "unload" in refused.json()["error"]["message"]
    post(server, "/unload", model="tiny")
    freed = ask(server, "DELETE", "/org/spare").json()
    assert freed["model"] == "org/spare"
    assert freed["freed_bytes"] >= tiny_gguf().stat().st_size
    assert not (home / "models" / "org").exists() or "spare" not in {
        path.name for path in (home / "models" / "org").iterdir()
    }
    assert "org/spare" not in available(server)
    assert code(ask(server, "DELETE", "/org/spare")) == (404, "model_not_found")


@pytest.mark.parametrize(
    "name",
    ["..", "../models/tiny", "/etc", "tiny/", "a/b/c", ".partial", "tiny/../tiny", "tiny%00", "~"],
)
def test_no_path_leads_out_of_the_store(server: ServerProcess, home: Path, name: str) -> None:
    before = sorted(home.rglob("*.gguf"))
    reply = ask(server, "DELETE", "/" + quote(name, safe="").replace("%2525", "%25"))
    assert reply.status_code in (400, 404)
    assert reply.json()["error"]["code"] in REFUSED
    assert sorted(home.rglob("*.gguf")) == before
    assert (home / "config.toml").exists()


def test_a_route_that_could_be_no_models_name_says_what_it_takes(server: ServerProcess) -> None:
    refused = ask(server, "DELETE", "/downloads/some/events")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/fit", "POST"), ("/available", "GET"), ("/download/confirm", "POST")],
)
def test_the_names_of_routes_are_no_models(
    server: ServerProcess, home: Path, path: str, allowed: str
) -> None:
    refused = ask(server, "DELETE", path)
    assert (refused.status_code, refused.headers["allow"]) == (405, allowed)
    name = path.removeprefix("/")
    ModelStore(home / "models").add(tiny_gguf(), name)
    assert ask(server, "DELETE", path).json()["model"] == name


def test_a_model_on_its_way_is_not_deleted(server: ServerProcess, hub: FakeHub, home: Path) -> None:
    held = hub.repos["org/held"].hold[WEIGHTS] = threading.Event()
    part = home / "models" / ".partial" / "org+held" / "files" / f"{WEIGHTS}.part"
    question = post(server, "/download", model="org/held")
    job = post(server, "/download/confirm", confirmation_token=question["confirmation_token"])
    try:
        wait_until(lambda: part.exists() and part.stat().st_size, 20)
        assert code(ask(server, "DELETE", "/org/held")) == (409, "model_downloading")
    finally:
        ask(server, "DELETE", f"/downloads/{job['download_id']}")
        held.set()
    one = f"/downloads/{job['download_id']}"
    wait_until(lambda: ask(server, "GET", one).json()["status"] == "cancelled", 20)
    assert ask(server, "DELETE", "/org/held").json()["freed_bytes"] > 0
    assert code(ask(server, "DELETE", "/org/held")) == (404, "model_not_found")


def test_a_large_download_takes_two_steps(server: ServerProcess, hub: FakeHub) -> None:
    size = sum(len(data) for data in large().values())
    question = post(server, "/download", model="org/large")
    assert question["status"] == "confirmation_required"
    assert (question["estimated_bytes"], question["expires_in_s"]) == (size, 600)
    assert question["estimated"] == "1.0 MB"
    assert question["free_disk_bytes"] > size
    assert question["fits"]["fits"] == "now"
    assert "estimated" in question["fits"]["source"]
    assert not hub.sent("org/large/" + WEIGHTS)
    token = question["confirmation_token"]
    job = post(
        server, question["confirm_url"].removeprefix("/admin/models"), confirmation_token=token
    )
    one = f"/downloads/{job['download_id']}"
    wait_until(lambda: ask(server, "GET", one).json()["status"] == "completed", 20)
    again = ask(server, "POST", "/download/confirm", confirmation_token=token)
    assert code(again) == (404, "confirmation_not_found")
    assert "org/large" in available(server)
    small = post(server, "/download", model="org/small")
    assert small["status"] == "running"


def test_a_model_is_sized_up_and_measured_figures_go_first(server: ServerProcess) -> None:
    found = post(server, "/fit", model="helper")
    assert (found["fits"], found["fits_for"], found["origin"]) == ("now", "as configured", "store")
    full = found["full"]
    parts = ("weights_bytes", "cache_bytes", "buffer_bytes")
    assert full["total_bytes"] == sum(full[name] for name in parts)
    assert found["largest_context"]["now"] == found["max_context"]
    assert found["speed"]["source"] == "estimated"
    assert "GB/s" in found["speed"]["how"]
    asked = post(server, "/fit", model="helper", context=64, slots=16)
    assert (asked["context"], asked["slots"], asked["fits_for"]) == (64, 16, "as asked")
    server.load("helper")
    measure = {"model": "helper", "num_output_tokens": 50, "runs": 1, "warmup_runs": 0}
    url = f"{server.url}/admin/benchmark/run"
    result = server.http.post(url, json=measure | {"prompt_tokens": 64}, timeout=120).json()
    found = post(server, "/fit", model="helper")
    assert (found["load"]["source"], found["speed"]["source"]) == ("measured", "measured")
    assert found["speed"]["tokens_per_s"] == result["tokens_per_s"]["p50"]
    other = post(server, "/fit", model="org/large", backend="mlx")
    assert other["speed"]["source"] == "estimated"
    tiny = post(server, "/fit", model="tiny")["speed"]
    assert "benchmarks" in tiny["how"]
    post(server, "/unload", model="helper")


def test_what_does_not_fit_is_said_with_numbers(server: ServerProcess) -> None:
    found = post(server, "/fit", model="helper", slots=1024)
    most = found["largest_context"]
    assert most["slots"] == 1024
    assert post(server, "/fit", model="helper", slots=1024, context=most["now"] or 1)
    too_long = ask(server, "POST", "/fit", model="helper", context=10**6)
    assert code(too_long) == (400, "context_too_long")
    assert too_long.json()["error"]["param"] == "context"
    assert code(ask(server, "POST", "/fit", model="absent")) == (404, "model_not_found")
    assert code(ask(server, "POST", "/fit", model="org/absent")) == (404, "hub_not_found")
    unknown = ask(server, "POST", "/fit", model="helper", speed=1)
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "speed")
    mismatch = ask(server, "POST", "/fit", model="folder", backend="gguf")
    assert code(mismatch) == (400, "backend_mismatch")


def test_a_hub_model_is_sized_up_by_its_headers(server: ServerProcess) -> None:
    found = post(server, "/fit", model="org/held", context=128, slots=1)
    assert (found["origin"], found["from"], found["backend"]) == ("hub", "headers", "mlx")
    assert found["size_bytes"] == sum(len(data) for data in large().values())
    assert found["max_context"] == 2048
    assert found["licence"] == "mit"
    assert "org/held" not in available(server)


def test_a_probe_loads_answers_and_leaves_nothing(server: ServerProcess) -> None:
    probe = post(server, "/probe", model="helper")
    assert probe["recommended_backend"] == "gguf"
    gguf, mlx = probe["candidates"]
    assert (gguf["backend"], gguf["outcome"], gguf["code"]) == ("gguf", "passed", None)
    assert gguf["load_s"] > 0
    assert gguf["memory_bytes"] > tiny_gguf().stat().st_size
    assert (mlx["outcome"], mlx["code"]) == ("skipped", "conversion_needed")
    assert server.models() == {}
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    if children.exists():
        workers = [pid for pid in children.read_text().split() if _is_worker(pid)]
        assert workers == []
    assert code(ask(server, "POST", "/probe", model="absent")) == (404, "model_not_found")
    assert ask(server, "POST", "/probe", model="helper", timeout_s=0).status_code == 400


def _is_worker(pid: str) -> bool:
    try:
        return b"opta_lmx.backends.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_models_worth_having_are_told_with_what_they_need(server: ServerProcess) -> None:
    reply = ask(server, "GET", "/recommended").json()
    assert [one["ref"] for one in reply["data"]] == [one.ref for one in recommended()]
    budget = reply["memory"]["budget_bytes"]
    for one in reply["data"]:
        assert (one["fits"] == "no") == (one["memory_bytes"] > budget)
