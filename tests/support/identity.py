"""A real identity provider on loopback: describes itself, publishes keys, and signs tokens.

Its keys are of every kind that is taken; it changes them, or misbehaves, at a test's word.
"""

import base64
import contextlib
import functools
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

AUDIENCE = "opta-lmx"
ALGORITHMS = ["RS256", "PS256", "ES256", "ES384", "EdDSA"]
DESCRIPTION = "/.well-known/openid-configuration"
KEYS = "/keys"
_CURVES = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}
_ALGORITHMS = get_default_algorithms()


def b64(data: bytes) -> str:
    """Base64 as in tokens."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@functools.cache
def private_key(kind: str, which: int = 0, bits: int = 2048) -> Any:
    """A private key for an algorithm; the same for the same number: making one takes long."""
    del which
    if kind in _CURVES:
        return ec.generate_private_key(_CURVES[kind]())
    if kind == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


class Signer(NamedTuple):
    """One key of a provider."""

    algorithm: str
    kid: str | None
    private: Any

    def jwk(self, **more: Any) -> dict[str, Any]:
        """The public key, as it is published; a field of None is left out."""
        made = _ALGORITHMS[self.algorithm].to_jwk(self.private.public_key(), as_dict=True)
        made = {name: value for name, value in made.items() if name != "key_ops"}
        fields = {"use": "sig", "kid": self.kid, "alg": self.algorithm, **made, **more}
        return {name: value for name, value in fields.items() if value is not None}

    def token(self, claims: dict[str, Any] | bytes, **header: Any) -> str:
        """A token; a field of None is left out of its header."""
        fields = {"alg": self.algorithm, "typ": "JWT", "kid": self.kid, **header}
        plain = {name: value for name, value in fields.items() if value is not None}
        return self.sign(encoded(plain), claims)

    def sign(self, head: bytes, claims: dict[str, Any] | bytes) -> str:
        """A token with a header of just these bytes."""
        signed = f"{b64(head)}.{b64(claims if isinstance(claims, bytes) else encoded(claims))}"
        signature = _ALGORITHMS[self.algorithm].sign(signed.encode(), self.private)
        return f"{signed}.{b64(signature)}"


def encoded(value: Any) -> bytes:
    """JSON as providers write it."""
    return json.dumps(value, separators=(",", ":")).encode()


def signer(algorithm: str, kid: str | None = "k1", which: int = 0) -> Signer:
    """A key of a provider, by algorithm."""
    kind = "RS" if algorithm[:2] in ("RS", "PS") else algorithm
    return Signer(algorithm, kid, private_key(kind, which))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        provider: Provider = self.server.provider  # type: ignore[attr-defined]
        provider.asked.append(self.path)
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            provider.pages.get(self.path, missing)(self)

    def log_message(self, *args: Any) -> None:
        """Silent: tests look at `asked`."""


Page = Callable[[BaseHTTPRequestHandler], None]
"""Answers a request."""


def page(data: bytes, kind: str = "application/json", status: int = 200, **headers: str) -> Page:
    """A page with these bytes; `headers` with `_` for `-`."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        fields = {"Content-Type": kind, "Content-Length": str(len(data)), **headers}
        for name, value in fields.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(data)

    return answer


missing = page(b"{}", status=404)


class Provider:
    """A running provider.

    Args:
        tls: with which it encrypts; None: it does not.
        host: by which it is called.
    """

    def __init__(self, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.asked: list[str] = []
        self.go_on = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.provider = self  # type: ignore[attr-defined]
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if tls is None else "https"
        self.issuer = f"{scheme}://{host}:{self._server.server_address[1]}"
        self.keys_url = self.issuer + KEYS
        self.pages: dict[str, Page] = {}
        self.signer = signer("ES256")
        self.describe(issuer=self.issuer, jwks_uri=self.keys_url)
        self.publish(self.signer)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def fetches(self) -> int:
        """How often its keys were asked for."""
        return self.asked.count(KEYS)

    def describe(self, **fields: Any) -> None:
        """Answer with this description."""
        self.pages[DESCRIPTION] = page(encoded(fields))

    def publish(self, *signers: Signer) -> None:
        """Have these keys and no others; tokens are signed with the first one."""
        self.signer = signers[0]
        self.publish_raw([one.jwk() for one in signers])

    def publish_raw(self, keys: Any) -> None:
        """Publish anything in the place of keys."""
        self.pages[KEYS] = page(encoded({"keys": keys}))

    def dribble(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer with one byte at a time, without an end."""
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", "9000")
        handler.end_headers()
        while not self.go_on.wait(0.02):
            handler.wfile.write(b" ")
            handler.wfile.flush()
        handler.close_connection = True

    def claims(self, **changed: Any) -> dict[str, Any]:
        """What a good token says, with some of it changed; None leaves a claim out."""
        now = int(time.time())
        fields = {
            "iss": self.issuer,
            "aud": AUDIENCE,
            "sub": "bot-1",
            "iat": now,
            "exp": now + 600,
            **changed,
        }
        return {name: value for name, value in fields.items() if value is not None}

    def token(self, **changed: Any) -> str:
        """A good token, with some of its claims changed."""
        return self.signer.token(self.claims(**changed))

    def section(self, **more: Any) -> dict[str, Any]:
        """The section `oidc` of a configuration that believes it."""
        return {"issuer": self.issuer, "audience": AUDIENCE, **more}

    def close(self) -> None:
        """End it."""
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


@contextlib.contextmanager
def identity_provider(
    tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> Iterator[Provider]:
    """A provider for the block."""
    provider = Provider(tls, host)
    try:
        yield provider
    finally:
        provider.close()
