"""Keys are fetched from a real provider, within bounds, and from nobody it may not name."""

import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from opta_lmx.core.errors import LmxError
from opta_lmx.tenancy import tokens_source
from opta_lmx.tenancy.tokens_keys import ProviderError
from opta_lmx.tenancy.tokens_source import MAX_BYTES, Source, believing, fetch_keys
from tests.support.asynchronous import in_loop
from tests.support.certificates import Authority
from tests.support.identity import (
    ALGORITHMS,
    DESCRIPTION,
    KEYS,
    Page,
    Provider,
    encoded,
    identity_provider,
    page,
    signer,
)


async def failure(source: Source) -> str:
    with pytest.raises(ProviderError) as caught:
        await fetch_keys(source)
    return str(caught.value)


@in_loop
async def test_keys_are_where_the_description_says() -> None:
    with identity_provider() as provider:
        provider.publish(*(signer(one, one) for one in ALGORITHMS))
        found = await fetch_keys(Source(provider.issuer))
        assert found.algorithms == set(ALGORITHMS)
        assert provider.asked == [DESCRIPTION, KEYS]


@in_loop
async def test_keys_may_be_named_without_a_description() -> None:
    with identity_provider() as provider:
        provider.pages.pop(DESCRIPTION)
        assert len(await fetch_keys(Source("https://id.example", provider.keys_url))) == 1
        assert provider.asked == [KEYS]


@in_loop
async def test_the_way_in_an_issuer_is_kept() -> None:
    with identity_provider() as provider:
        issuer = f"{provider.issuer}/realms/bots"
        described = encoded({"issuer": issuer, "jwks_uri": provider.keys_url})
        provider.pages[f"/realms/bots{DESCRIPTION}"] = page(described)
        assert len(await fetch_keys(Source(issuer))) == 1


@in_loop
async def test_a_provider_with_a_certificate_of_a_private_authority(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*authority.server())
    with identity_provider(tls, "localhost") as provider:
        believed = believing(authority.file, "oidc.ca")
        assert len(await fetch_keys(Source(provider.issuer, None, believed))) == 1
        other = believing(Authority(tmp_path / "other").file, "oidc.ca")
        assert "nobody can be reached" in await failure(Source(provider.issuer, None, other))
        assert "nobody can be reached" in await failure(Source(provider.issuer))


def test_authorities_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    for name in ("missing.pem", "empty.pem"):
        with pytest.raises(LmxError) as caught:
            believing(tmp_path / name, "oidc.ca")
        assert (caught.value.code, caught.value.param) == ("invalid_config", "oidc.ca")
    assert believing(None, "oidc.ca") is None


@in_loop
async def test_a_description_must_be_of_just_this_issuer() -> None:
    with identity_provider() as provider:
        for other in (f"{provider.issuer}/", "https://id.example", None, [provider.issuer]):
            provider.describe(issuer=other, jwks_uri=provider.keys_url)
            assert "another issuer" in await failure(Source(provider.issuer))
        assert provider.fetches == 0


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (None, "no https"),
        (7, "no https"),
        ("http://keys.example/keys", "no https"),
        ("http://localhost:{port}/keys", "no https"),
        ("file:///etc/passwd", "only http"),
        ("/keys", "only http"),
        ("https://127.0.0.2/keys", "not public"),
        ("https://10.0.0.1/keys", "not public"),
        ("https://169.254.169.254/keys", "not public"),
        ("https://[::1]/keys", "not public"),
        ("https://keys.example:8443/keys", "port 8443"),
        ("https://user:word@keys.example/", "user or password"),
        ("https://127.1/keys", "neither a name nor"),
        ("x" * 5000, "characters"),
    ],
)
@in_loop
async def test_a_description_leads_to_no_other_private_place(url: object, reason: str) -> None:
    with identity_provider() as provider:
        if isinstance(url, str):
            url = url.format(port=provider.issuer.rpartition(":")[2])
        provider.describe(issuer=provider.issuer, jwks_uri=url)
        assert reason in await failure(Source(provider.issuer))
        assert provider.fetches == 0


@in_loop
async def test_what_the_operator_names_is_no_link_local_address() -> None:
    for url in ("http://169.254.169.254/keys", "http://[fe80::1]/keys", "http://0.0.0.0/keys"):
        assert "not public" in await failure(Source("https://id.example", url))


@in_loop
async def test_redirects_are_not_followed() -> None:
    with identity_provider() as provider, identity_provider() as other:
        for target in (other.keys_url, "http://169.254.169.254/", provider.issuer + "/moved"):
            provider.pages["/moved"] = provider.pages[KEYS]
            provider.pages[DESCRIPTION] = page(b"", status=302, Location=target)
            assert "leads on" in await failure(Source(provider.issuer))
            assert "leads on" in await failure(
                Source("https://id.example", provider.issuer + DESCRIPTION)
            )
        assert other.asked == []
        assert "/moved" not in provider.asked


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    while True:
        handler.wfile.write(b"400\r\n" + b" " * 1024 + b"\r\n")


def broken(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"nonsense\r\n\r\n")
    handler.close_connection = True


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (endless, "larger than"),
        (broken, "broken"),
        (page(b" " * (MAX_BYTES + 1)), "larger than"),
        (page(b"[" * 200_000), "no JSON"),
        (page(b'{"keys":[' + b"[" * 100_000), "no JSON"),
        (page(b'{"keys":[],"keys":[]}'), "a name twice"),
        (page(b'{"keys":[' + b"1" * 9_000 + b"]}"), "no JSON"),
        (page(encoded({"keys": [{}] * 65})), "more than 64"),
        (page(encoded({"keys": []})), "no key"),
        (page(b"<html>", "text/html"), "another type"),
        (page(b"\x1f\x8b", Content_Encoding="gzip"), "packed"),
        (page(b"", status=500), "status 500"),
        (page(b"", status=204), "status 204"),
    ],
    ids=range(13),
)
@in_loop
async def test_answers_that_are_no_keys(answer: Page, reason: str) -> None:
    with identity_provider() as provider:
        provider.pages[KEYS] = answer
        assert reason in await failure(Source(provider.issuer))


@pytest.mark.parametrize("where", [DESCRIPTION, KEYS])
def test_a_provider_that_dribbles_is_given_up(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_source, "FETCH_S", 0.2)
    slow: Callable[[Provider], Page] = lambda provider: provider.dribble  # noqa: E731

    @in_loop
    async def run() -> None:
        with identity_provider() as provider:
            provider.pages[where] = slow(provider)
            assert "more than 0.2 s" in await failure(Source(provider.issuer))

    run()


@in_loop
async def test_nobody_there_is_said() -> None:
    with identity_provider() as provider:
        issuer = provider.issuer
    assert "nobody can be reached" in await failure(Source(issuer))
    assert threading.active_count() < 50
