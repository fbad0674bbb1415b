"""In front of every route: names, web origins, keys; and the routes operators look at."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from opta_lmx.config.sections.engine import EngineSettings
from opta_lmx.core.clock import SystemClock
from opta_lmx.core.principal import Principal
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.engine.planner import Planner
from opta_lmx.engine.residency import Engine
from opta_lmx.models.store import ModelEntry, ModelStore
from opta_lmx.serving.catalogue import Catalogue
from tests.support.process import running_server, start_server
from tests.support.server import sim_server
from tests.support.sim import SimResolver, engine_options
from tests.support.waiting import wait_until
from tests.support.weights import small_gguf

KEY = "k-1234567890"


def test_a_foreign_host_or_origin_is_refused_on_loopback(tmp_path: Path) -> None:
    with sim_server(tmp_path, {"m": {}}) as server:
        foreign = httpx.get(f"{server.url}/v1/models", headers={"Host": "evil.example:1234"})
        assert (foreign.status_code, foreign.json()["error"]["code"]) == (403, "host_not_allowed")
        origin = httpx.get(f"{server.url}/v1/models", headers={"Origin": "https://evil.example"})
        assert (origin.status_code, origin.json()["error"]["code"]) == (403, "origin_not_allowed")
        local = httpx.get(f"{server.url}/v1/models", headers={"Origin": "http://localhost:3000"})
        assert local.status_code == 200


def test_every_route_but_liveness_needs_the_key(tmp_path: Path) -> None:
    with sim_server(tmp_path, {"m": {}}, server={"api_keys": [KEY]}) as server:
        paths = ["/openapi.json", *server.app.http.openapi()["paths"]]
        assert len(paths) > 8
        for path in paths:
            reply = httpx.get(server.url + path.replace("{", "").replace("}", ""))
            expected = {200} if path == "/healthz" else {401}
            assert reply.status_code in expected, path
        wrong = httpx.get(f"{server.url}/v1/models", headers={"Authorization": "Bearer nope"})
        assert (wrong.status_code, wrong.headers["www-authenticate"]) == (401, "Bearer")
        for headers in ({"Authorization": f"Bearer {KEY}"}, {"x-api-key": KEY}):
            assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == 200


def test_a_request_id_is_echoed_unless_it_is_unfit(tmp_path: Path) -> None:
    with sim_server(tmp_path, {"m": {}}) as server:
        echoed = httpx.get(f"{server.url}/healthz", headers={"X-Request-ID": "mine-1"})
        assert echoed.headers["x-request-id"] == "mine-1"
        unfit = httpx.get(f"{server.url}/healthz", headers={"X-Request-ID": "x" * 300})
        assert unfit.headers["x-request-id"].startswith("req-")


def test_malformed_names_are_refused_in_the_envelope(tmp_path: Path) -> None:
    with sim_server(tmp_path, {"m": {}}) as server:
        for header, text in (("Host", "[::1"), ("Host", "[x]:1"), ("Origin", "http://[")):
            reply = httpx.get(f"{server.url}/v1/models", headers={header: text})
            assert reply.status_code == 403, (header, text)
            assert reply.json()["error"]["code"] == f"{header.lower()}_not_allowed"
        metrics = httpx.get(f"{server.url}/metrics").text
        counted = [line for line in metrics.splitlines() if 'code="403"' in line]
        assert any("requests_total" in line and line.endswith(" 3.0") for line in counted)


def test_the_server_answers_to_the_address_it_listens_on(tmp_path: Path) -> None:
    settings = {"host": "127.0.0.2", "allowed_hosts": ["Box.Local"]}
    with sim_server(tmp_path, {"m": {}}, server=settings) as server:
        for host, status in (("127.0.0.2:1", 200), ("box.local.", 200), ("127.0.0.3", 403)):
            reply = httpx.get(f"{server.url}/healthz", headers={"Host": host})
            assert reply.status_code == status, host


def test_an_ipv6_server_prints_an_address_that_works(tmp_path: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    with running_server(tmp_path, "--host", "::1") as server:
        assert server.url.startswith("http://[::1]:")
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        assert "[::1]:" in (tmp_path / "serve.lock").read_text()


def test_head_says_what_get_says_without_a_body(tmp_path: Path) -> None:
    with sim_server(tmp_path, {"m": {}}) as server:
        for draining, ready in ((False, 200), (True, 503)):
            server.app.serving.draining = draining
            for path, status in (("/healthz", 200), ("/readyz", ready)):
                reply = httpx.head(server.url + path)
                assert (reply.status_code, reply.content) == (status, b"")
                assert httpx.get(server.url + path).status_code == status


def test_nothing_new_is_begun_while_draining(tmp_path: Path) -> None:
    with sim_server(tmp_path, {"m": {}}) as server:
        server.app.serving.draining = True
        for path in ("/admin/models/load", "/admin/models/download"):
            reply = httpx.post(server.url + path, json={"model": "m"})
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "draining"), path
            assert "retry-after" in reply.headers
        assert (server.resolver.loads, server.app.downloads.list()) == ([], [])


class Vanishing(ModelStore):
    """Loses a model right after it was listed; remembers which threads it was read on."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.threads: set[threading.Thread] = set()

    def list(self) -> "list[ModelEntry]":
        found = super().list()
        shutil.rmtree(self.root / "going", ignore_errors=True)
        self.threads.add(threading.current_thread())
        return found

    def get(self, name: str) -> ModelEntry:
        self.threads.add(threading.current_thread())
        return super().get(name)


def test_a_model_that_goes_meanwhile_does_not_break_the_list(tmp_path: Path) -> None:
    source = tmp_path / "m.gguf"
    source.write_bytes(small_gguf())
    store = Vanishing(tmp_path / "models")
    store.sweep()
    for name in ("going", "staying"):
        store.add(source, name)
    store.threads.clear()
    planner = Planner(store, EngineSettings(backend="gguf"), tmp_path)
    resolver = SimResolver(tmp_path, {})
    engine = Engine(resolver, engine_options(), SystemClock(), NullTelemetry())
    catalogue = Catalogue(planner, engine)
    listed = asyncio.run(catalogue.list(Principal()))
    assert [(model.id, model.backend) for model in listed] == [
        ("going", "gguf"),
        ("staying", "gguf"),
    ]
    other = asyncio.run(catalogue.get(Principal(), "staying:mlx"))
    assert (other.id, other.backend) == ("staying:mlx", "mlx")
    assert asyncio.run(catalogue.get(Principal(), "staying:gguf")).id == "staying"
    assert threading.current_thread() not in store.threads


def test_what_a_client_says_of_its_address_counts_for_nothing(tmp_path: Path) -> None:
    limits = {"auth_failures_per_minute": 2}
    with sim_server(tmp_path, {"m": {}}, server={"api_keys": [KEY]}, security=limits) as server:
        url = f"{server.url}/v1/models"
        told: list[int] = []
        for place in range(4):
            said = {"X-Forwarded-For": f"10.0.0.{place}", "Forwarded": f"for=10.0.0.{place}"}
            reply = httpx.get(url, headers={**said, "x-api-key": "wrong"})
            told.append(reply.status_code)
        assert told == [401, 401, 429, 429]
        assert (reply.json()["error"]["code"], reply.headers["retry-after"]) == (
            "too_many_auth_failures",
            "60",
        )
        assert httpx.get(url, headers={"x-api-key": KEY}).status_code == 200


def test_a_key_made_or_ended_elsewhere_is_known_within_seconds(tmp_path: Path) -> None:
    def manage(*arguments: str) -> str:
        command = [sys.executable, "-m", "opta_lmx.cli.main", "keys", *arguments]
        home = {**os.environ, "LMX_HOME": str(tmp_path)}
        done = subprocess.run(command, env=home, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    # The server's own waiting for readiness shows this one.
    first = manage("create", "--name", "first")
    limit = {"LMX_SECURITY__AUTH_FAILURES_PER_MINUTE": "1000"}
    with running_server(tmp_path, key=first, **limit) as server:

        def status(key: str) -> int:
            headers = {"Authorization": f"Bearer {key}"}
            return httpx.get(f"{server.url}/v1/models", headers=headers).status_code

        second = manage("create", "--name", "second")
        wait_until(lambda: status(second) == 200)
        manage("revoke", "second")
        wait_until(lambda: status(second) == 401)
        manage("revoke", "first")
        wait_until(lambda: status(first) == 401)
        assert httpx.get(f"{server.url}/v1/models").status_code == 401


def test_the_server_does_not_start_while_its_profile_is_not_met(tmp_path: Path) -> None:
    server = start_server(tmp_path, "--host", "0.0.0.0")
    assert server.process.wait(30) == 1
    said = server.log.read_text()
    assert "keys_required" in said
    for setting in ("security.profile", "opta-lmx keys create", "server.allowed_hosts"):
        assert setting in said
    server.http.close()
