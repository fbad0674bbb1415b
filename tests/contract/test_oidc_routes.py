"""Every way in, with tokens: good, without the scope, of another tenant, wrong, and none."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from opta_lmx.api import rules
from opta_lmx.config.profiles import PROFILES
from opta_lmx.core.principal import Scope
from tests.contract.test_routes import SCRIPTS, bearer, told
from tests.support.identity import Provider, identity_provider, signer
from tests.support.live_routes import Way, live_ways
from tests.support.server import LiveServer, sim_server
from tests.support.waiting import wait_until

RULES: list[dict[str, Any]] = [
    *(
        {"claim": "role", "value": f"no-{scope}", "scopes": [one for one in Scope if one != scope]}
        for scope in Scope
    ),
    {"claim": "role", "value": "operator", "scopes": [*Scope]},
    {"claim": "role", "value": "ours", "tenant": "ours"},
    {"claim": "role", "value": "theirs", "tenant": "theirs"},
]


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with identity_provider() as made:
        yield made


@pytest.fixture(scope="module", params=sorted(PROFILES))
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, provider: Provider
) -> Iterator[LiveServer]:
    """A server under each profile that knows nobody but who shows a token."""
    security = {"profile": request.param, "auth_failures_per_minute": 1000}
    if PROFILES[request.param].proxies == "required":
        security["trusted_proxies"] = ["127.0.0.1"]
    home = tmp_path_factory.mktemp("home")
    with sim_server(home, SCRIPTS, security=security, oidc=provider.section(rules=RULES)) as live:

        def is_ready() -> bool:
            headers = bearer(provider.token(role="ours"))
            return httpx.get(f"{live.url}/v1/models", headers=headers).status_code == 200

        wait_until(is_ready)
        yield live


@pytest.fixture
def every_way(server: LiveServer) -> list[Way]:
    found = live_ways(server.app.http.routes)
    assert len(found) > 60
    return found


def test_wrong_tokens_open_nothing(
    server: LiveServer, provider: Provider, every_way: list[Way]
) -> None:
    wrong = [
        provider.token(role="operator", aud="other"),
        provider.token(role="operator", exp=1),
        provider.token(role="nobody"),
        signer("ES256", "k1", which=5).token(provider.claims(role="operator")),
    ]
    for way in every_way:
        for headers in ({}, *map(bearer, wrong)):
            status, _ = told(server, way, headers)
            assert status == (200 if rules.is_open(way.asked) else 401), (way, headers)


def test_a_token_without_the_scope_does_not_open(
    server: LiveServer, provider: Provider, every_way: list[Way]
) -> None:
    for way in every_way:
        if way.needed is None:
            continue
        token = provider.token(role=f"no-{way.needed}")
        status, text = told(server, way, bearer(token))
        assert status == 403, (way, status)
        assert way.method == "HEAD" or f"'{way.needed.value}'" in text, (way, text)


def test_the_right_token_opens(
    server: LiveServer, provider: Provider, every_way: list[Way]
) -> None:
    token = provider.token(role="operator")
    for way in every_way:
        status, text = told(server, way, bearer(token))
        assert status not in (401, 403, 405, 429), (way, status, text)
        assert status < 500, (way, status, text)


def test_what_is_anothers_is_not_there(
    server: LiveServer, provider: Provider, every_way: list[Way]
) -> None:
    ours, theirs = (bearer(provider.token(role=role)) for role in ("ours", "theirs"))
    url = f"{server.url}/v1/responses"
    body = {"model": "chat-ok", "input": "hi"}
    made = httpx.post(url, json=body, headers=ours, timeout=30).json()
    stored = [way for way in every_way if way.path.startswith("/v1/responses/{response_id}")]
    assert len(stored) == 4
    for way in stored:
        path = way.path.format(response_id=made["id"])
        reply = httpx.request(way.method, server.url + path, headers=theirs)
        assert reply.status_code == 404, (way, reply.text)
    assert httpx.get(f"{url}/{made['id']}", headers=ours).status_code == 200
