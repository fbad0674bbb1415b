"""The guard in front of every route: names, web origins, keys."""

from pathlib import Path

import httpx

from tests.support.server import sim_server

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
