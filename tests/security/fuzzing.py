"""Hostile bytes for a real socket, and what must be true whatever they are.

Requests are put together from pieces that are right, nearly right and senseless: request lines,
names and values of headers, framing of bodies, keys, handshakes, frames. Bodies are sound ones
with a value exchanged, cut or spoilt.
"""

import base64
import contextlib
import json
import re
import socket
from typing import Any

import httpx
from hypothesis import strategies as st

from tests.security import live
from tests.support.rawhttp import connected
from tests.support.server import LiveServer

KEY = "sk-fuzzed"
SECTIONS: dict[str, Any] = {
    "models": {"downloads_enabled": False},
    "server": {"api_keys": [KEY], "body_timeout_s": 2.0, "body_limit_bytes": 200_000},
    "security": {"auth_failures_per_minute": 1000},
}
"""The server's configuration: nothing is fetched, and there is a key from the start."""
PATIENCE_S = 20.0
"""After this a connection that was not closed counts as one that hangs."""
_QUIET_S = 0.02
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
GOOD_KEY = f"Authorization: Bearer {KEY}".encode()

Bytes = st.SearchStrategy[bytes]


def _some(*values: bytes) -> Bytes:
    return st.sampled_from(values)


NASTY = _some(
    b"",
    b"\0",
    b"\r",
    b"\n",
    b"\r\n",
    b"\t",
    b" ",
    b"\x7f",
    b"\x80\xff",
    b"\xc3\xa9",
    b"%00",
    b"%0d%0aX: y",
    b"%",
    b"%zz",
    b"..",
    b"//",
    b"\\",
    b"'\" OR 1=1 --",
    b"${jndi:ldap://x}",
    b"{{7*7}}",
    b"A" * 3000,
    b"A" * 70_000,
    b"9" * 400,
    b"-1",
    b"0x10",
    b"1e309",
    b"NaN",
    b"\xef\xbb\xbf",
)
TEXT = st.one_of(NASTY, st.binary(max_size=40))
METHODS = st.one_of(
    _some(b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"HEAD", b"OPTIONS"),
    _some(b"TRACE", b"CONNECT", b"PRI", b"get", b"G ET", b"", b"M" * 5000, b"GET\0"),
)
VERSIONS = st.one_of(
    st.just(b"HTTP/1.1"),
    _some(b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.1 ", b"http/1.1", b"HTTP/9.9", b"", b"x"),
)
NAMES = st.one_of(
    _some(
        b"Host",
        b"Origin",
        b"Authorization",
        b"X-Api-Key",
        b"X-Admin-Key",
        b"Content-Type",
        b"Content-Encoding",
        b"Expect",
        b"Connection",
        b"Upgrade",
        b"Sec-Fetch-Site",
        b"Traceparent",
        b"X-Request-Id",
        b"X-Forwarded-For",
        b"Forwarded",
        b"X-Serving-Lane",
        b"X-Priority",
        b"X-Client-Id",
        b"Session_id",
        b"Range",
        b"Cookie",
        b"If-None-Match",
        b"Anthropic-Version",
        b"Trailer",
    ),
    TEXT,
)
VALUES = st.one_of(
    TEXT,
    _some(
        b"localhost",
        b"[::1",
        b"http://[",
        b"100-continue",
        b"close, keep-alive, upgrade",
        b"websocket",
        b"h2c",
        b"gzip, gzip, gzip",
        b'for="_x;by=',
        b"1.1.1.1, , unknown, [::1]:x",
        b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-zz",
        b"bytes=0-,-1,5-2",
    ),
)
KEYS = st.one_of(
    st.just(GOOD_KEY),
    st.just(b"X-Admin-Key: " + KEY.encode()),
    st.builds(
        lambda scheme, value: b"Authorization:" + scheme + value,
        _some(
            b" Bearer ",
            b" bearer",
            b" Basic ",
            b" Digest ",
            b" Negotiate ",
            b"",
            b" Bearer Bearer ",
        ),
        st.one_of(
            TEXT,
            _some(
                KEY.encode(),
                b"lmx_aaaaaaaa_" + b"a" * 43,
                b"lmx_" + b"a" * 9000,
                base64.b64encode(b"user:" + KEY.encode()),
                b"eyJhbGciOiJub25lIn0.e30.",
                b"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0." + b"A" * 43,
                b"\xff" * 20,
            ),
        ),
    ),
)
JSON_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=30),
    st.sampled_from(
        ["\ud800", "\0", "x" * 5000, "../..", "chat", "\u202e", [], {}, [[]], {"": None}]
    ),
)


def framings(body: bytes) -> Bytes:
    """Headers and body, framed rightly, wrongly, or in two ways at once."""
    size = len(body)
    chunk = b"%x\r\n%s\r\n" % (size, body) if body else b""
    chunked = b"Transfer-Encoding: chunked\r\n"
    return st.one_of(
        st.just(b"Content-Length: %d\r\n\r\n%s" % (size, body)),
        st.just(chunked + b"\r\n" + chunk + b"0\r\n\r\n"),
        st.integers(0, size).map(lambda cut: b"Content-Length: %d\r\n\r\n%s" % (size, body[:cut])),
        TEXT.map(lambda length: b"Content-Length: %s\r\n\r\n%s" % (length, body)),
        st.just(b"Content-Length: %d\r\nContent-Length: 1\r\n\r\n%s" % (size, body)),
        st.just(b"Content-Length: %d, %d\r\n\r\n%s" % (size, size, body)),
        st.just(chunked + b"Content-Length: %d\r\n\r\n%s" % (size, body)),
        st.just(b"Content-Length: 5\r\n" + chunked + b"\r\n" + chunk + b"0\r\n\r\n"),
        st.just(b"Transfer-Encoding: identity, chunked\r\n\r\n" + chunk + b"0\r\n\r\n"),
        st.just(b"Transfer-Encoding: xchunked\r\n\r\n" + body),
        st.just(b"Transfer-Encoding : chunked\r\n\r\n" + chunk),
        TEXT.map(lambda length: chunked + b"\r\n" + length + b"\r\n" + body + b"\r\n0\r\n\r\n"),
        st.just(chunked + b"\r\nffffffffffffffffff\r\n" + body),
        TEXT.map(
            lambda words: chunked + b"\r\n1;" + words + b"\r\nx\r\n0\r\n" + words + b"\r\n\r\n"
        ),
        st.just(b"\r\n" + body),
    )


class Target:
    """A route that can be asked, and a sound body of it."""

    def __init__(self, route: live.Route, body: dict[str, Any] | None) -> None:
        self.route = route
        self.body = body

    def __repr__(self) -> str:
        return f"{self.route.method} {self.route.path}"


def targets(server: LiveServer) -> list[Target]:
    """Every operation of the live OpenAPI document."""
    told = live.document(server, {"Authorization": f"Bearer {KEY}"})
    found: list[Target] = []
    for route, operation in live.operations(told):
        schema = live.body_schema(operation)
        found.append(Target(route, None if schema is None else live.least_body(route.path, schema)))
    return found


@st.composite
def requests(draw: st.DrawFn, known: list[Target]) -> bytes:
    """One or two requests as they are sent."""
    return b"".join(draw(_request(known)) for _ in range(draw(st.integers(1, 2))))


@st.composite
def _request(draw: st.DrawFn, known: list[Target]) -> bytes:
    target = draw(st.sampled_from(known))
    route = target.route
    sound = draw(st.booleans())
    method = route.method.encode() if sound else draw(METHODS)
    path = route.filled(draw(st.sampled_from(["none", "chat", "%00", "%ff", "a%2fb"]))).encode()
    if not sound:
        path += draw(TEXT)
    line = method + b" " + path + b" " + (b"HTTP/1.1" if sound else draw(VERSIONS))
    colons = _some(b": ", b":", b" : ", b"")
    more = st.builds(lambda name, colon, value: name + colon + value, NAMES, colons, VALUES)
    headers = [b"Host: localhost", draw(KEYS), *draw(st.lists(more, max_size=4))]
    body = draw(spoilt(target))
    return b"\r\n".join([line, *headers, draw(framings(body))])


@st.composite
def spoilt(draw: st.DrawFn, target: Target) -> bytes:
    """A sound body of a route, with bytes exchanged or cut."""
    body = bytearray(json.dumps(target.body or {}).encode())
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(body)))
        body[at : at + draw(st.integers(0, 5))] = draw(TEXT)
    return bytes(body)


@st.composite
def bodies(draw: st.DrawFn, known: list[Target]) -> tuple[Target, bytes]:
    """A route and a body of it in which values were exchanged."""
    target = draw(st.sampled_from([one for one in known if one.body is not None]))
    body: Any = json.loads(json.dumps(target.body))
    for _ in range(draw(st.integers(1, 3))):
        body = draw(_exchanged(body))
    return target, json.dumps(body).encode("utf-8", "surrogatepass")


@st.composite
def _exchanged(draw: st.DrawFn, value: Any) -> Any:
    """The value with something inside it replaced, taken out or added."""
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        name = draw(st.sampled_from(sorted(value)))
        rest = {key: one for key, one in value.items() if key != name}
        match draw(st.integers(0, 5)):
            case 0:
                return rest
            case 1:
                return {**value, draw(st.text(max_size=10)): draw(JSON_VALUES)}
            case _:
                return {**rest, name: draw(_exchanged(value[name]))}
    if isinstance(value, list) and value and draw(st.integers(0, 9)):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], draw(_exchanged(value[at])), *value[at + 1 :]]
    return draw(JSON_VALUES)


@st.composite
def handshakes(draw: st.DrawFn) -> bytes:
    """A WebSocket's handshake, sound or not, and what may come behind it."""
    path = draw(_some(b"/v1/chat/stream", b"/v1/responses", b"/v1/models", b"/none"))
    path += draw(
        st.one_of(st.just(b""), _some(b"?ticket=x", b"?ticket=x&ticket=y", b"?" + b"&" * 50))
    )
    key = draw(st.one_of(st.just(base64.b64encode(b"k" * 16)), TEXT))
    lines = [
        b"GET " + path + b" HTTP/1.1",
        b"Host: localhost",
        b"Connection: " + draw(_some(b"Upgrade", b"keep-alive, Upgrade", b"close", b"")),
        b"Upgrade: " + draw(st.one_of(st.just(b"websocket"), TEXT)),
        b"Sec-WebSocket-Version: " + draw(_some(b"13", b"8", b"-1", b"", b"x")),
        b"Sec-WebSocket-Key: " + key,
        draw(KEYS),
    ]
    if draw(st.booleans()):
        protocols = _some(
            b"chat", b"lmx-key.", b"chat, lmx-key." + KEY.encode(), b"lmx-ticket.x, a", b",,"
        )
        lines.append(b"Sec-WebSocket-Protocol: " + draw(st.one_of(protocols, TEXT)))
    if draw(st.booleans()):
        lines.append(b"Sec-WebSocket-Extensions: " + draw(VALUES))
    frames = draw(st.lists(_frames(), max_size=3))
    return b"\r\n".join([*lines, b"", b""]) + b"".join(frames)


@st.composite
def _frames(draw: st.DrawFn) -> bytes:
    """A frame from a client, sound or not."""
    if not draw(st.integers(0, 4)):
        return draw(st.binary(max_size=30))
    words = [
        b"",
        b"{",
        b"[]",
        b'{"type":"ping"}',
        b'{"type":"chat.request"}',
        b"\xff\xfe",
        b"x" * 300,
    ]
    words.append(
        b'{"type":"chat.request","model":"chat","messages":[{"role":"user","content":"x"}]}'
    )
    data = draw(_some(*words))
    first = draw(st.sampled_from([0x81, 0x82, 0x89, 0x8A, 0x88, 0x01, 0x00, 0x80, 0xF1, 0x83]))
    size = len(data)
    length = bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + size.to_bytes(2, "big")
    return bytes([first]) + length + b"\0\0\0\0" + data


# --- what must be true


def send(server: LiveServer, data: bytes) -> bytes:
    """Send, then close the way out as soon as nothing more comes; everything that was answered.

    Fails when the server neither answers nor closes.
    """
    with connected(server.url) as client:
        client.settimeout(PATIENCE_S)
        with contextlib.suppress(ConnectionError):
            client.sendall(data)
        received = _read(client, _QUIET_S * 5)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_WR)
        return received + _read(client, PATIENCE_S, hangs=True)


def _read(client: socket.socket, quiet_s: float, *, hangs: bool = False) -> bytes:
    received = b""
    client.settimeout(quiet_s)
    try:
        while data := client.recv(65536):
            received += data
            client.settimeout(quiet_s if hangs else _QUIET_S)
    except TimeoutError:
        assert not hangs, f"the connection is left open: {received[-300:]!r}"
    except ConnectionError:
        pass
    return received


def check_bytes(server: LiveServer, data: bytes) -> None:
    """Whatever was sent: nothing is answered with a 5xx, and the server goes on."""
    answer = send(server, data)
    statuses = [int(found) for found in _STATUS.findall(answer)]
    assert all(status < 500 for status in statuses), (statuses, answer[:500])


def check_body(http: httpx.Client, target: Target, body: bytes) -> None:
    """Whatever the body: an answer that is no 5xx, and JSON where it is an error."""
    headers = {"Content-Type": "application/json"}
    path = target.route.asked
    reply = http.request(target.route.method, path, content=body, headers=headers)
    assert reply.status_code < 500, (target, reply.status_code, reply.text[:500])
    if reply.status_code >= 400:
        assert reply.json(), target


def check_alive(server: LiveServer) -> None:
    """The server answers: liveness, and a model's answer to whoever has the key."""
    assert httpx.get(f"{server.url}/healthz", timeout=5).status_code == 200
    body = {"model": "chat", "messages": [{"role": "user", "content": "x"}]}
    headers = {"Authorization": f"Bearer {KEY}"}
    url = f"{server.url}/v1/chat/completions"
    reply = httpx.post(url, json=body, headers=headers, timeout=20)
    assert reply.status_code == 200, reply.text
