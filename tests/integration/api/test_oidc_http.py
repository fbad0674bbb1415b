"""Tokens of a real identity provider, over real sockets, in the place of keys."""

import json
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from websockets.exceptions import InvalidStatus

from tests.support.certificates import Authority, section, trusting
from tests.support.identity import KEYS, Provider, identity_provider, missing, signer
from tests.support.server import LiveServer, sim_server
from tests.support.sim_program import sim_process
from tests.support.waiting import wait_until
from tests.support.websocket import MESSAGES, WsClient

SCRIPTS: dict[str, dict[str, Any]] = {"m": {"reply": "one two"}, "other": {}}
KEY = "sk-of-the-house"
ACCESS = {"keys": [{"name": "house", "key": KEY, "tenant": "t1"}]}
RULES: list[dict[str, Any]] = [
    {
        "claim": "groups",
        "value": "ops",
        "tenant": "house",
        "scopes": ["admin", "metrics", "inference"],
    },
    {"claim": "groups", "value": "t1-*", "tenant": "t1", "models": ["m"], "lane": "agent"},
    {"claim": "groups", "value": "t2-*", "tenant": "t2"},
]
QUOTAS = {
    "keys": [{"name": "oidc:few", "requests_per_minute": 1}],
    "tenants": [{"name": "t2", "requests_per_day": 3}],
}
OPS, T1, T2 = ["ops"], ["t1-bots"], ["t2-bots"]


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def status(server: LiveServer, text: str, path: str = "/v1/models") -> int:
    return httpx.get(server.url + path, headers=bearer(text)).status_code


def chat(server: LiveServer, text: str, **fields: Any) -> httpx.Response:
    body = {"model": "m", "messages": MESSAGES, **fields}
    url = f"{server.url}/v1/chat/completions"
    return httpx.post(url, json=body, headers=bearer(text), timeout=30)


def wait_ready(server: LiveServer, provider: Provider) -> None:
    """Until its keys were fetched: tests begin sooner than the server looks."""
    wait_until(lambda: status(server, provider.token(groups=T1)) == 200)


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with identity_provider() as made:
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Iterator[LiveServer]:
    sections = {
        "oidc": provider.section(rules=RULES),
        "access": ACCESS,
        "quotas": QUOTAS,
        "security": {"auth_failures_per_minute": 1000},
    }
    with sim_server(tmp_path_factory.mktemp("home"), SCRIPTS, **sections) as live:
        wait_ready(live, provider)
        yield live


def test_the_official_client_with_a_token_for_its_key(
    server: LiveServer, provider: Provider
) -> None:
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key=provider.token(groups=T1), max_retries=0
    ) as client:
        made = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}]
        )
        assert made.choices[0].message.content == "one two "
        streamed = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        assert "".join(one.choices[0].delta.content or "" for one in streamed) == "one two "
        with pytest.raises(openai.PermissionDeniedError):
            client.chat.completions.create(
                model="other", messages=[{"role": "user", "content": "hi"}]
            )
        client.api_key = provider.token(groups=T1, exp=int(time.time()) - 1)
        with pytest.raises(openai.AuthenticationError):
            client.models.list()


@pytest.mark.parametrize("header", ["x-api-key", "x-admin-key"])
def test_a_token_is_shown_wherever_a_key_is(
    server: LiveServer, provider: Provider, header: str
) -> None:
    headers = {header: provider.token(groups=OPS)}
    assert httpx.get(f"{server.url}/admin/keys", headers=headers).status_code == 200


def test_claims_say_what_may_be_done(server: LiveServer, provider: Provider) -> None:
    for groups, expected in ((OPS, 200), (T1, 403)):
        assert status(server, provider.token(groups=groups), "/admin/keys") == expected
        assert status(server, provider.token(groups=groups), "/metrics") == expected
        assert status(server, provider.token(groups=groups)) == 200
    assert status(server, provider.token()) == 401
    assert status(server, provider.token(groups=["t3"])) == 401
    lane = {"x-serving-lane": "interactive", **bearer(provider.token(groups=T1))}
    body = {"model": "m", "messages": MESSAGES}
    assert httpx.post(f"{server.url}/v1/chat/completions", json=body, headers=lane).is_success


def test_tenants_of_tokens_are_apart_and_shared_with_keys(
    server: LiveServer, provider: Provider
) -> None:
    ours, theirs = provider.token(groups=T1), provider.token(groups=T2, sub="apart")
    url = f"{server.url}/v1/responses"
    body = {"model": "m", "input": "hi"}
    made = httpx.post(url, json=body, headers=bearer(ours), timeout=30).json()
    for text, expected in ((ours, 200), (theirs, 404), (KEY, 200), (provider.token(), 401)):
        assert status(server, text, f"/v1/responses/{made['id']}") == expected


def test_quotas_are_the_owners_and_the_tenants(server: LiveServer, provider: Provider) -> None:
    few = provider.token(groups=T1, sub="few")
    assert [chat(server, few).status_code for _ in range(2)] == [200, 429]
    again = provider.token(groups=T1, sub="few", jti="another token of the same owner")
    assert chat(server, again).status_code == 429
    assert chat(server, provider.token(groups=T1, sub="many")).status_code == 200
    both = [provider.token(groups=T2, sub=sub) for sub in ("a", "b")]
    statuses = [chat(server, text, model="other").status_code for text in both * 3]
    assert max(statuses) == 429
    operator = bearer(provider.token(groups=OPS))
    url = f"{server.url}/admin/quotas/keys/oidc:new"
    put = httpx.put(url, json={"requests_per_minute": 1}, headers=operator)
    assert put.status_code == 200, put.text
    new = provider.token(groups=T1, sub="new")
    assert [chat(server, new).status_code for _ in range(2)] == [200, 429]
    tenant = httpx.put(url.replace("/keys/", "/tenants/"), json={}, headers=operator)
    assert tenant.status_code == 400


def test_the_audit_log_names_them(server: LiveServer, provider: Provider) -> None:
    operator = provider.token(groups=OPS, sub="the-operator")
    body = {"name": "k1", "expires": "60s"}
    made = httpx.post(f"{server.url}/admin/keys", json=body, headers=bearer(operator))
    assert made.status_code == 201
    refused = provider.token(groups=T1, sub="curious")
    assert status(server, refused, "/admin/keys") == 403
    rows = httpx.get(f"{server.url}/admin/audit", headers=bearer(operator)).json()["data"]
    assert {("house", "oidc:the-operator"), ("t1", "oidc:curious")} <= {
        (row["tenant"], row["who"]) for row in rows
    }
    assert operator not in json.dumps(rows)


def test_a_token_grants_nothing_that_outlives_it(server: LiveServer, provider: Provider) -> None:
    operator = bearer(provider.token(groups=OPS, exp=int(time.time()) + 120))
    url = f"{server.url}/admin/keys"
    assert httpx.post(url, json={"name": "never"}, headers=operator).status_code == 403
    body = {"name": "soon", "expires": "60s"}
    assert httpx.post(url, json=body, headers=operator).status_code == 201


def test_use_is_counted_for_the_owner(server: LiveServer, provider: Provider) -> None:
    assert chat(server, provider.token(groups=T1, sub="counted")).status_code == 200
    operator = bearer(provider.token(groups=OPS))

    def told() -> str:
        return httpx.get(f"{server.url}/admin/usage", headers=operator).text

    wait_until(lambda: "oidc:counted" in told())


def test_sockets_by_header_protocol_and_ticket(server: LiveServer, provider: Provider) -> None:
    token = provider.token(groups=T1, sub="socket")
    asked = httpx.post(f"{server.url}/v1/ws/tickets", headers=bearer(token)).json()
    for path, options in (
        ("", {"headers": bearer(token)}),
        ("", {"subprotocols": ["chat", f"lmx-key.{token}"]}),
        (f"?ticket={asked['ticket']}", {}),
    ):
        with WsClient(server.url, f"/v1/chat/stream{path}", **options) as client:
            client.ask("a")
            assert client.until("a")["type"] == "chat.done"
            client.ask("b", "other")
            assert client.until("b")["error"]["code"] == "model_not_allowed"
    with pytest.raises(InvalidStatus), WsClient(server.url, headers=bearer(token + "x")):
        pass


def test_the_end_of_a_token_ends_its_sockets_and_tickets(
    server: LiveServer, provider: Provider
) -> None:
    ends = int(time.time()) + 3
    token = provider.token(groups=T1, sub="short", exp=ends)
    asked = httpx.post(f"{server.url}/v1/ws/tickets", headers=bearer(token)).json()
    with WsClient(server.url, headers=bearer(token)) as client:
        client.ask("a")
        assert client.until("a")["type"] == "chat.done"
        wait_until(lambda: time.time() >= ends)
        client.ask("b")
        assert client.until("b")["error"]["code"] == "invalid_api_key"
    with (
        pytest.raises(InvalidStatus),
        WsClient(server.url, f"/v1/chat/stream?ticket={asked['ticket']}"),
    ):
        pass
    assert status(server, token) == 401


def test_a_new_key_of_the_provider_is_taken_over(tmp_path: Path) -> None:
    with (
        identity_provider() as provider,
        sim_server(tmp_path, SCRIPTS, oidc=provider.section()) as server,
    ):
        wait_ready(server, provider)
        old = provider.token()
        provider.publish(signer("EdDSA", "new"))
        server.app.keyring._tokens._tried_at -= 60  # type: ignore[union-attr]
        assert status(server, provider.token()) == 401
        wait_until(lambda: status(server, provider.token()) == 200)
        assert status(server, old) == 401


def test_without_keys_nobody_comes_in_unknown(tmp_path: Path) -> None:
    with (
        identity_provider() as provider,
        sim_server(tmp_path, SCRIPTS, oidc=provider.section()) as server,
    ):
        wait_ready(server, provider)
        assert httpx.get(f"{server.url}/v1/models").status_code == 401
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        with pytest.raises(InvalidStatus), WsClient(server.url):
            pass


def test_while_the_provider_is_away_it_is_said_and_keys_go_on(tmp_path: Path) -> None:
    sections = {"access": ACCESS, "security": {"auth_failures_per_minute": 3}}
    with identity_provider() as provider:
        fine, provider.pages[KEYS] = provider.pages[KEYS], missing
        with sim_server(tmp_path, SCRIPTS, oidc=provider.section(), **sections) as server:
            for _ in range(6):
                reply = httpx.get(f"{server.url}/v1/models", headers=bearer(provider.token()))
                assert reply.status_code == 503
                assert reply.json()["error"]["code"] == "identity_provider_unavailable"
                assert 1 <= int(reply.headers["retry-after"]) <= 10
            assert status(server, KEY) == 200
            assert status(server, "sk-wrong") == 401
            with (
                pytest.raises(InvalidStatus) as caught,
                WsClient(server.url, headers=bearer(provider.token())),
            ):
                pass
            assert caught.value.response.status_code == 503
            provider.pages[KEYS] = fine
            server.app.keyring._tokens._tried_at -= 60  # type: ignore[union-attr]
            wait_ready(server, provider)


def test_wrong_tokens_count_as_wrong_keys(tmp_path: Path) -> None:
    security = {"auth_failures_per_minute": 3}
    with (
        identity_provider() as provider,
        sim_server(tmp_path, SCRIPTS, oidc=provider.section(), security=security) as server,
    ):
        wait_ready(server, provider)
        wrong = [provider.token(aud="other"), provider.token() + "x", "sk-wrong", "eyJhIjoxfQ.a.b"]
        assert [status(server, text) for text in wrong] == [401, 401, 401, 429]
        assert status(server, provider.token()) == 200


def test_no_token_is_in_a_log_or_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sections = {"logging": {"level": "debug", "format": "json"}}
    with (
        identity_provider() as provider,
        sim_server(tmp_path, SCRIPTS, oidc=provider.section(), **sections) as server,
    ):
        wait_ready(server, provider)
        good, late = provider.token(), provider.token(exp=1)
        bodies: list[str] = []
        for text in (good, late):
            for headers in (bearer(text), {"x-api-key": text}, {"x-request-id": text}):
                for path in (f"/v1/{text}", f"/v1/models/{text}?token={text}", "/v1/models"):
                    reply = httpx.get(server.url + path, headers={**bearer(good), **headers})
                    bodies += [reply.text, str(reply.headers)]
        bodies.append(chat(server, good, model=good).text)
        bodies.append(chat(server, good, **{good: 1}).text)
    log = capsys.readouterr().err
    told = "\n".join([log, *bodies])
    for token in (good, late):
        for part in token.split("."):
            assert part not in told
            assert part[:30] not in told
    assert "eyJ***" in log
    assert "ended, or not begun" in log
    assert '"key": "oidc:bot-1"' in log


def test_a_provider_behind_tls_of_a_private_authority(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*authority.server())
    with (
        identity_provider(tls, "localhost") as provider,
        sim_server(
            tmp_path, SCRIPTS, oidc=provider.section(ca=str(authority.file.relative_to(tmp_path)))
        ) as server,
    ):
        wait_ready(server, provider)


def test_the_program_fetches_keys_unasked_and_ends_while_it_does(tmp_path: Path) -> None:
    with identity_provider() as provider:
        log = tmp_path / "log"
        with sim_process(tmp_path / "a", SCRIPTS, log=log, oidc=provider.section()) as server:
            wait_until(lambda: provider.fetches == 1, 30)
            reply = httpx.get(f"{server.url}/v1/models", headers=bearer(provider.token()))
            assert reply.status_code == 200
        assert server.process.returncode == 0, log.read_text()
        provider.pages[KEYS] = provider.dribble
        log = tmp_path / "log-2"
        with sim_process(tmp_path / "b", SCRIPTS, log=log, oidc=provider.section()) as server:
            wait_until(lambda: provider.fetches == 2, 30)
        assert server.process.returncode == 0, log.read_text()
        assert "Traceback" not in log.read_text()


def test_a_token_beside_a_certificate_must_be_of_its_tenant(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    asked = {"client_ca": str(authority.file), "client_certificates": "optional"}
    mapping = [{"uri": "spiffe://opta/tenant/t1/*", "tenant": "t1"}]
    tls = section(authority.server(), mapping=mapping, **asked)
    shown = authority.bot("t1", "bot-1")
    with (
        identity_provider() as provider,
        sim_server(tmp_path, SCRIPTS, oidc=provider.section(rules=RULES), tls=tls) as server,
        httpx.Client(verify=trusting(authority.file, shown), base_url=server.url) as known,
        httpx.Client(verify=trusting(authority.file), base_url=server.url) as unknown,
    ):

        def answer(client: httpx.Client, headers: dict[str, str]) -> tuple[int, str]:
            reply = client.get("/v1/models", headers=headers)
            return reply.status_code, reply.json().get("error", {}).get("code", "")

        ours, theirs = (bearer(provider.token(groups=groups)) for groups in (T1, T2))
        wait_until(lambda: answer(known, ours) == (200, ""))
        assert answer(known, {}) == (200, "")
        assert answer(known, theirs) == (403, "tenant_mismatch")
        assert answer(known, bearer(provider.token())) == (401, "invalid_api_key")
        assert answer(unknown, theirs) == (200, "")
        assert answer(unknown, {}) == (401, "invalid_api_key")
