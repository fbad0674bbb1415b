"""The outermost middleware on its own: what it changes in a scope, and what it leaves."""

import asyncio
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from opta_lmx.security.forwarded import Networks
from opta_lmx.security.proxies import PASSED_ON, REFUSED, TrustedProxies

PROXY = ("10.0.0.1", 5000)
CLIENT = "203.0.113.9"
REPLY = {"websocket.http.response": {}}


def passed(
    trusted: list[str] | None = None,
    client: tuple[str, int] | None = PROXY,
    headers: list[tuple[str, str]] | None = None,
    **fields: Any,
) -> tuple[Scope | None, list[Message]]:
    """What the application was given, and what was sent."""
    seen: list[Scope] = []
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(dict(scope))

    async def receive() -> Message:
        raise AssertionError("nothing is received here")

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers or []]
    scope = {"type": "http", "scheme": "http", "client": client, "headers": raw, **fields}
    networks = Networks.parse(["10.0.0.0/24"] if trusted is None else trusted)
    asyncio.run(TrustedProxies(app, networks)(scope, receive, send))
    return (seen[0] if seen else None), sent


@pytest.mark.parametrize(
    ("client", "headers", "expected"),
    [
        (PROXY, [("x-forwarded-for", CLIENT)], (CLIENT, 0)),
        (PROXY, [("forwarded", f"for={CLIENT}")], (CLIENT, 0)),
        (PROXY, [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", CLIENT)], (CLIENT, 0)),
        (PROXY, [], PROXY),
        (("::ffff:10.0.0.1", 5), [], ("10.0.0.1", 0)),
        ((CLIENT, 7), [("x-forwarded-for", "1.1.1.1")], (CLIENT, 7)),
        (None, [("x-forwarded-for", "1.1.1.1")], None),
    ],
)
def test_the_client_behind_a_proxy(
    client: tuple[str, int] | None, headers: list[tuple[str, str]], expected: object
) -> None:
    scope, _ = passed(client=client, headers=headers)
    assert scope is not None
    assert scope["client"] == expected


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("proto", "expected"),
    [("https", "https"), ("HTTPS ", "https"), ("wss", "https"), ("http, https", "https"),
     ("https,http", "http"), ("ws", "http"), ("ftp", "http"), ("", "http"), ("https,", "http")],
)  # fmt: skip
def test_the_scheme_is_what_the_nearest_proxy_says(kind: str, proto: str, expected: str) -> None:
    plain = {"http": "http", "websocket": "ws"}[kind]
    scope, _ = passed(type=kind, scheme=plain, headers=[("x-forwarded-proto", proto)])
    assert scope is not None
    assert scope["scheme"] == expected.replace("http", plain)
    # A stranger's word is none.
    scope, _ = passed(
        client=(CLIENT, 1), type=kind, scheme=plain, headers=[("x-forwarded-proto", proto)]
    )
    assert scope is not None
    assert scope["scheme"] == plain


def test_without_trusted_proxies_nothing_changes() -> None:
    headers = [("x-forwarded-for", CLIENT), ("forwarded", "for=1.1.1.1"),
               ("x-forwarded-proto", "https")]  # fmt: skip
    for client in (PROXY, ("127.0.0.1", 1), ("::ffff:10.0.0.1", 1)):
        scope, sent = passed([], client, headers)
        assert scope is not None
        assert (scope["client"], scope["scheme"], sent) == (client, "http", [])


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("client", "headers", "expected"),
    [
        (PROXY, [("x-forwarded-for", "127.0.0.1")], True),
        (PROXY, [("x-forwarded-for", "nonsense")], True),
        (PROXY, [("forwarded", "proto=https")], True),
        (PROXY, [("x-forwarded-proto", "https")], True),
        (PROXY, [("x-forwarded-host", "box")], True),
        (PROXY, [("x-real-ip", "127.0.0.1")], True),
        (PROXY, [("via", "1.1 box")], True),
        (PROXY, [("x-api-key", "k")], False),
        ((CLIENT, 7), [("x-forwarded-for", "127.0.0.1")], False),
    ],
)
def test_what_a_proxy_passed_on_is_marked(
    kind: str, client: tuple[str, int], headers: list[tuple[str, str]], *, expected: bool
) -> None:
    scope, _ = passed(client=client, headers=headers, type=kind, scheme="ws")
    assert scope is not None
    assert (PASSED_ON in scope) is expected


CONFLICT = [("x-forwarded-for", CLIENT), ("forwarded", "for=1.1.1.1")]


@pytest.mark.parametrize("fields", [{}, {"type": "websocket", "scheme": "ws"}])
def test_a_conflict_is_passed_on_to_be_refused(fields: dict[str, Any]) -> None:
    scope, sent = passed(headers=CONFLICT, **fields)
    assert scope is not None
    assert sent == []
    assert scope[REFUSED].code == "forwarded_conflict"
    assert scope["client"] == PROXY
    alone, _ = passed(headers=CONFLICT[:1], **fields)
    assert alone is not None
    assert REFUSED not in alone


def test_a_lifespan_passes() -> None:
    scope, _ = passed(type="lifespan", client=None)
    assert scope is not None
