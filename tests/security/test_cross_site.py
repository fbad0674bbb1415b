"""Pages of other sites, on every route that changes something: by name, origin, form and preflight.

A browser on this machine is nobody's friend: it carries requests of any page to any address. That
Chromium does as is assumed here is shown by tests/e2e/test_foreign_page.py.
"""

from collections.abc import Iterator

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.security import live
from tests.support.server import LiveServer, sim_server
from tests.support.websocket import WsClient

FOREIGN_ORIGINS = (
    "https://evil.example",
    "http://evil.example:1234",
    "null",
    "file://",
    "chrome-extension://abcdefghijklmnop",
    "https://localhost.evil.example",
    "https://127.0.0.1.evil.example",
    "http://127.0.0.1@evil.example",
    "http://127.1",
    "http://0.0.0.0",
    "http://[::2]",
    "",
)
FOREIGN_HOSTS = (
    "evil.example",
    "evil.example:1234",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "127.0.0.1@evil.example",
    "127.1",
    "2130706433",
    "0.0.0.0",
    "",
)
SIMPLE_TYPES = (
    "text/plain",
    "text/plain;charset=UTF-8",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
)
"""What a page may send anywhere without asking first."""
LOAD = b'{"model":"chat"}'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """No key is asked for: whoever gets in may do everything."""
    with sim_server(tmp_path_factory.mktemp("home"), live.SCRIPTS) as running:
        yield running


@pytest.fixture(scope="module")
def mutating(server: LiveServer) -> list[live.Route]:
    found = [route for route in live.routes(server) if route.method in live.MUTATING]
    assert len(found) > 35
    return found


def ask(
    server: LiveServer, route: live.Route, headers: dict[str, str], body: bytes = b"[]"
) -> httpx.Response:
    return httpx.request(
        route.method, server.url + route.asked, headers=headers, content=body, timeout=30
    )


def no_cors(reply: httpx.Response) -> bool:
    """Whether a reply tells a browser of no permission."""
    return not any(name.startswith("access-control-") for name in reply.headers)


def test_foreign_names_are_refused(server: LiveServer, mutating: list[live.Route]) -> None:
    for route in mutating:
        for host in FOREIGN_HOSTS:
            reply = ask(server, route, {"Host": host})
            assert reply.status_code == 403, (route, host, reply.text)
            assert no_cors(reply)


def test_foreign_origins_are_refused(server: LiveServer, mutating: list[live.Route]) -> None:
    for route in mutating:
        for origin in FOREIGN_ORIGINS:
            for kind in SIMPLE_TYPES[:1]:
                headers = {"Origin": origin, "Content-Type": kind}
                reply = ask(server, route, headers, LOAD)
                assert reply.status_code == 403, (route, origin, reply.text)
                assert "origin" in reply.text
                assert no_cors(reply)
    assert server.resolver.loads == []


@pytest.mark.parametrize("kind", SIMPLE_TYPES)
def test_forms_of_foreign_pages_are_refused(
    server: LiveServer, mutating: list[live.Route], kind: str
) -> None:
    for route in mutating:
        headers = {"Origin": "https://evil.example", "Content-Type": kind}
        assert ask(server, route, headers, LOAD).status_code == 403, route
    assert server.resolver.loads == []


def test_preflights_are_granted_nothing(server: LiveServer) -> None:
    for path in {route.path for route in live.routes(server)}:
        route = live.Route("OPTIONS", path)
        for origin, expected in (("https://evil.example", 403), ("http://localhost:3000", 405)):
            headers = {
                "Origin": origin,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,content-type",
                "Access-Control-Request-Private-Network": "true",
            }
            reply = ask(server, route, headers, b"")
            assert reply.status_code == expected, (path, origin, reply.text)
            assert no_cors(reply)


def test_no_reply_grants_a_page_anything(server: LiveServer) -> None:
    for route in live.routes(server):
        for origin in ("http://localhost:3000", "https://evil.example"):
            assert no_cors(ask(server, route, {"Origin": origin})), route


def test_what_a_browser_calls_cross_site_is_refused(
    server: LiveServer, mutating: list[live.Route]
) -> None:
    """Without an origin too: a page's picture or script of another site, or an older browser."""
    for route in mutating:
        reply = ask(server, route, {"Sec-Fetch-Site": "cross-site"}, LOAD)
        assert reply.status_code == 403, (route, reply.text)
        assert "origin" in reply.text
    for route in live.routes(server):
        if route.method == "GET":
            picture = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
            assert ask(server, route, picture, b"").status_code == 403, route
    assert server.resolver.loads == []


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Mode": "cors"},  # Node's own client says so, and nothing of a site
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost:1234"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:3000"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://127.0.0.1:3000"},
        {
            "Sec-Fetch-Site": "cross-site",
            "Sec-Fetch-Mode": "navigate",
            "Sec-Fetch-Dest": "document",
        },
    ],
)
def test_who_means_well_is_let_in(server: LiveServer, headers: dict[str, str]) -> None:
    assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == 200


def test_an_open_path_is_no_exception(server: LiveServer) -> None:
    for foreign in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        assert httpx.get(f"{server.url}/healthz", headers=foreign).status_code == 403


@pytest.mark.parametrize("path", ["/v1/chat/stream", "/v1/responses"])
@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_foreign_pages_open_no_socket(server: LiveServer, path: str, origin: str) -> None:
    with (
        pytest.raises(InvalidStatus) as refused,
        WsClient(server.url, path, headers={"Origin": origin}),
    ):
        pass
    assert refused.value.response.status_code == 403


def test_a_page_of_an_allowed_name_is_let_in(server: LiveServer) -> None:
    """So that the refusals above are of the names, and of nothing else in the requests."""
    load = live.Route("POST", "/admin/models/load")
    headers = {"Origin": "http://localhost:3000", "Content-Type": "text/plain"}
    assert ask(server, load, headers, LOAD).status_code == 200
    assert server.resolver.loads == ["chat"]
