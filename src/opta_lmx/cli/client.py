"""A small client of the running server: JSON calls and server-sent events, errors typed."""

import json
import ssl
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import quote

import httpx

from opta_lmx.cli.session import Session, key_for, open_session
from opta_lmx.cli.trust import own_trust
from opta_lmx.core.errors import ErrorKind, LmxError, invalid

CONNECT_S = 5.0
READ_S = 60.0
# The server sends a no-op chunk at least every 15 s, and a load answers when it is done.
STREAM_READ_S = 120.0
LOAD_READ_S = 3600.0

_KIND_BY_STATUS = {
    400: ErrorKind.INVALID_REQUEST,
    401: ErrorKind.UNAUTHENTICATED,
    403: ErrorKind.FORBIDDEN,
    404: ErrorKind.NOT_FOUND,
    409: ErrorKind.CONFLICT,
    413: ErrorKind.PAYLOAD_TOO_LARGE,
    429: ErrorKind.RATE_LIMITED,
    503: ErrorKind.UNAVAILABLE,
}


class ServerClient:
    """HTTP calls to one server; use as a context manager.

    Args:
        url: the server's root, without `/v1`.
        key: bearer key, or None.
        trust: whom to trust, and what to show them, under TLS; None: as everybody does.
    """

    def __init__(
        self, url: str, key: str | None = None, trust: ssl.SSLContext | None = None
    ) -> None:
        self.url = _checked_url(url).rstrip("/")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # Proxies of the environment are for the wide world, not for a private endpoint.
        self._http = httpx.Client(
            base_url=self.url,
            headers=headers,
            timeout=httpx.Timeout(READ_S, connect=CONNECT_S),
            trust_env=False,
            verify=True if trust is None else trust,
        )

    def __enter__(self) -> Self:
        """Open nothing yet: connections are made on use."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str) -> dict[str, Any]:
        """GET a JSON object. Raises LmxError."""
        with self._failures():
            return _object(self._http.get(path))

    def post(self, path: str, body: Mapping[str, Any], read_s: float = READ_S) -> dict[str, Any]:
        """POST a JSON object and return the answer. Raises LmxError."""
        timeout = httpx.Timeout(read_s, connect=CONNECT_S)
        with self._failures():
            return _object(self._http.post(path, json=body, timeout=timeout))

    def delete(self, path: str) -> dict[str, Any]:
        """DELETE, and return the JSON object that answers. Raises LmxError."""
        with self._failures():
            return _object(self._http.delete(path))

    def model(self, name: str) -> dict[str, Any]:
        """What the server says of one model."""
        return _flat(self.get(f"/v1/models/{quote(name, safe='')}"))

    def models(self) -> list[dict[str, Any]]:
        """What the server says of each of its models."""
        return [_flat(one) for one in self.get("/v1/models").get("data", [])]

    def events(self, path: str, body: Mapping[str, Any]) -> Generator[dict[str, Any]]:
        """POST, then yield each server-sent event's JSON object, up to `[DONE]`.

        Raises:
            LmxError: refused before headers, an error event, or the stream was cut.
        """
        timeout = httpx.Timeout(STREAM_READ_S, connect=CONNECT_S)
        with self._failures(), self._http.stream("POST", path, json=body, timeout=timeout) as reply:
            if reply.is_error:
                reply.read()
                raise failure(reply)
            yield from _events(reply.iter_lines())

    @contextmanager
    def _failures(self) -> Generator[None]:
        """Turn failures of the transport into typed errors."""
        try:
            yield
        except httpx.ConnectError as error:
            if isinstance(_origin(error), ssl.SSLError):
                raise _unsure(self.url, error) from error
            raise LmxError(
                ErrorKind.UNAVAILABLE,
                f"No server answers at {self.url}; start one with: opta-lmx serve",
                code="server_unreachable",
            ) from error
        except httpx.TimeoutException as error:
            raise LmxError(
                ErrorKind.REQUEST_TIMEOUT, f"The server at {self.url} does not answer in time"
            ) from error
        except UnicodeEncodeError as error:
            raise invalid("The request holds bytes that are no UTF-8 text") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise LmxError(
                ErrorKind.UPSTREAM_FAILED,
                f"The connection to {self.url} failed: {error}",
                code="connection_lost",
            ) from error


def _origin(error: BaseException) -> BaseException:
    """What an error began with."""
    while (earlier := error.__cause__ or error.__context__) is not None:
        error = earlier
    return error


def _unsure(url: str, error: httpx.ConnectError) -> LmxError:
    return LmxError(
        ErrorKind.UPSTREAM_FAILED,
        f"No encrypted connection to {url} came about: {error}. See docs/security/mtls.md.",
        code="tls_failed",
    )


@contextmanager
def connect(
    config: Path | None,
    url: str | None,
    key: str | None,
    configured: Callable[[Session, str | None], str | None] = key_for,
) -> Generator[ServerClient]:
    """A client of the server at `url`, or of the configured one.

    `configured` tells the configured key to show at a `url`, where no `key` is given; it is only
    ever sent to the configured address.
    """
    session = open_session(config)
    shown = key or configured(session, url)
    with ServerClient(url or session.server_url, shown, own_trust(session, url)) as client:
        yield client


def _checked_url(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise invalid(
            f"{url!r} is no address of a server; write http://HOST:PORT",
            param="url",
            code="invalid_url",
        )
    return url


def failure(reply: httpx.Response) -> LmxError:
    """The typed error an unsuccessful reply stands for."""
    try:
        body: object = reply.json()
    except ValueError:
        body = None
    retry = reply.headers.get("retry-after", "")
    return error_of(body, reply.status_code, float(retry) if retry.isdecimal() else None)


def error_of(body: object, status: int = 500, retry_after: float | None = None) -> LmxError:
    """Read OpenAI's error envelope; what is not one becomes an error that says so."""
    kind = _KIND_BY_STATUS.get(status, ErrorKind.UPSTREAM_FAILED)
    found = cast(dict[str, object], body).get("error") if isinstance(body, dict) else None
    if not isinstance(found, dict):
        return LmxError(kind, f"The server answered {status} without a typed error")
    fields = cast(dict[str, object], found)
    code, param = fields.get("code"), fields.get("param")
    return LmxError(
        kind,
        str(fields.get("message") or f"The server answered {status}"),
        code=str(code) if code else str(fields.get("type") or kind.value),
        param=str(param) if param else None,
        retry_after=retry_after,
    )


def _object(reply: httpx.Response) -> dict[str, Any]:
    if reply.is_error:
        raise failure(reply)
    try:
        body: object = reply.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise LmxError(
            ErrorKind.UPSTREAM_FAILED,
            f"{reply.request.url} did not answer with a JSON object; is it an Opta LMX server?",
            code="not_our_server",
        )
    return cast(dict[str, Any], body)


def _flat(model: dict[str, Any]) -> dict[str, Any]:
    """A model with what our own servers add beside OpenAI's fields."""
    more: object = model.get("x_opta")
    return {**model, **cast(dict[str, Any], more)} if isinstance(more, dict) else model


def _events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if not line.startswith("data:"):
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            return
        try:
            event: object = json.loads(data)
        except ValueError:
            event = None
        if not isinstance(event, dict):
            raise LmxError(ErrorKind.UPSTREAM_FAILED, "The server sent an event that is no JSON")
        if "error" in event:
            raise error_of(cast(object, event))
        yield cast(dict[str, Any], event)
    raise LmxError(
        ErrorKind.UPSTREAM_FAILED, "The server ended the answer in its middle", code="stream_cut"
    )
