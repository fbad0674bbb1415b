"""Operators' requests are written down: before they act, and what came of them before it is told.

What is asked of an audited route (`audit_actions`) leaves two rows if it may change something:
one before it acts, one before its answer goes out. A crash in between leaves the first alone.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import msgspec
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from opta_lmx.api import rules
from opta_lmx.api.audit_actions import AUDITED, Asked, asked_for
from opta_lmx.api.body import OPERATORS_BYTES
from opta_lmx.api.callers import KNOWN, PRINCIPAL, REQUEST_ID, require
from opta_lmx.api.errors import Envelopes
from opta_lmx.api.json_body import decode_object
from opta_lmx.core import principal
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.tenancy.audit import AuditLog
from opta_lmx.tenancy.audit_rows import Entry, Outcome

ERROR_CODE = "opta_lmx.error_code"
"""In a connection's scope: the code of the error that it was answered with."""
NO_ANSWER = "no_answer"
"""The code of what ended without an answer: its client had gone, or the server ended."""

_AUDIT = "opta_lmx.audit"
_TARGET = "opta_lmx.audit_target"
_REFUSALS = frozenset({401, 403})
_SWITCHING_PROTOCOLS = 101
_FORBIDDEN = 403


class Audit:
    """Plain ASGI middleware behind the door.

    Args:
        app: what answers.
        log: keeps the rows.
        envelopes: how a refusal is told.
        telemetry: told of rows that cannot be written.
        strict: what cannot be written down is not done; else it is done, and logged.
        reads: requests that change nothing are written down, too.
    """

    def __init__(
        self,
        app: ASGIApp,
        log: AuditLog,
        envelopes: Envelopes,
        telemetry: Telemetry,
        *,
        strict: bool,
        reads: bool,
    ) -> None:
        self._app = app
        self._log = log
        self._envelopes = envelopes
        self._telemetry = telemetry
        self._strict = strict
        self._reads = reads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and write down what is to be."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope[_AUDIT] = self
        asked = _asked(scope)
        if asked is None or not (asked.action.changes or asked.action.always or self._reads):
            await self._app(scope, receive, send)
            return
        request = _Request(self, scope, asked)
        if asked.action.changes and not asked.action.field:
            try:
                await request.begin(asked.target)
            except LmxError as error:
                status, headers, body = self._envelopes.render(scope["path"], error)
                told = Response(body, status, headers, media_type="application/json")
                await told(scope, receive, send)
                return
        try:
            await self._app(scope, request.receiving(receive), request.sending(send))
        finally:
            await request.close()

    async def refused(self, scope: Scope, error: LmxError) -> None:
        """Write down, or count, that somebody was turned away at the door."""
        asked = _asked(scope)
        if asked is not None:
            await self._turn_away(scope, asked.action.name, asked.target, error)

    async def begin(self, scope: Scope, action: str, target: str) -> int | None:
        """Write down what is about to be done; the row's number.

        Raises:
            LmxError: UNAVAILABLE `audit_unavailable`: it must not be done.
        """
        entry = _entry(scope, action, target, "begun")
        try:
            return await self._log.append(entry)
        except LmxError:
            self._missed(entry)
            if self._strict:
                raise
            return None

    async def end(self, entry: Entry) -> None:
        """Write down what came of something; where that fails it is logged."""
        try:
            await self._log.append(entry)
        except LmxError:
            self._missed(entry)

    @contextlib.asynccontextmanager
    async def doing(
        self, connection: HTTPConnection, scope: principal.Scope, action: str, target: str
    ) -> AsyncGenerator[None]:
        """Ask for a scope, then write down the block as a request of its own."""
        where = connection.scope
        try:
            require(connection, scope)
        except LmxError as error:
            await self._turn_away(where, action, target, error)
            raise
        began = await self.begin(where, action, target)
        ended = _entry(where, action, target, "failed", began=began, code=NO_ANSWER)
        try:
            yield
        except LmxError as error:
            status = self._status(where, error)
            ended = msgspec.structs.replace(ended, status=status, code=error.code)
            raise
        except (asyncio.CancelledError, ClientDisconnect):
            raise
        except BaseException:
            # Told as what it is answered as; it goes on to whoever answers.
            ended = msgspec.structs.replace(ended, status=500, code=ErrorKind.INTERNAL.value)
            raise
        else:
            ended = msgspec.structs.replace(ended, outcome="ok", status=200, code="")
        finally:
            await self.end(ended)

    async def _turn_away(self, scope: Scope, action: str, target: str, error: LmxError) -> None:
        status = self._status(scope, error)
        entry = _entry(scope, action, target, "refused", status=status, code=error.code)
        try:
            await self._log.refused(entry)
        except LmxError:
            self._missed(entry)

    def _status(self, scope: Scope, error: LmxError) -> int:
        return self._envelopes.render(scope["path"], error)[0]

    def _missed(self, entry: Entry) -> None:
        self._telemetry.count("audit_failures_total", outcome=entry.outcome)
        self._telemetry.log(
            "error",
            "audit row not written",
            action=entry.action,
            target=entry.target,
            outcome=entry.outcome,
        )


class _Request:
    """One request that is written down."""

    def __init__(self, audit: Audit, scope: Scope, asked: Asked) -> None:
        self._audit = audit
        self._scope = scope
        self._asked = asked
        self._target = asked.target
        self._body: bytearray | None = bytearray() if asked.action.field else None
        self._began: int | None = None
        self._ended = False

    async def begin(self, target: str) -> None:
        """Write down that it begins. Raises UNAVAILABLE: it must not."""
        self._target = target
        try:
            self._began = await self._audit.begin(self._scope, self._asked.action.name, target)
        except LmxError:
            self._ended = True  # nothing is done, and nothing more can be written
            raise

    def receiving(self, receive: Receive) -> Receive:
        """Hear the body; its last part is passed on once the row is written."""

        async def watched() -> Message:
            message = await receive()
            if self._body is not None and message["type"] == "http.request":
                await self._hear(self._body, message)
            return message

        return watched

    async def _hear(self, body: bytearray, message: Message) -> None:
        if len(body) <= OPERATORS_BYTES:  # of a longer one nothing is read
            body += message.get("body", b"")
        if not message.get("more_body", False):
            self._body = None
            await self.begin(_named(bytes(body), self._asked.action.field))

    def sending(self, send: Send) -> Send:
        """Hear the answer; its first part is passed on once the row is written."""

        async def watched(message: Message) -> None:
            status = _status_in(message)
            if status is not None and not self._ended:
                self._ended = True
                await self._end(_outcome(status), status, self._scope.get(ERROR_CODE, ""))
            await send(message)

        return watched

    async def close(self) -> None:
        """Nothing more comes; without an answer, this is what came of it."""
        if not self._ended and self._began is not None:
            self._ended = True
            await self._end("failed", None, NO_ANSWER)

    async def _end(self, outcome: Outcome, status: int | None, code: str) -> None:
        target = self._scope.get(_TARGET) or self._target
        entry = _entry(self._scope, self._asked.action.name, target, outcome)
        ended = msgspec.structs.replace(entry, status=status, code=code, began=self._began)
        await self._audit.end(ended)


@contextlib.asynccontextmanager
async def audited(
    connection: HTTPConnection, scope: principal.Scope, action: str, target: str
) -> AsyncGenerator[None]:
    """Write down what a route does whose own row asks for less than this scope.

    Raises:
        LmxError: FORBIDDEN without the scope; UNAVAILABLE `audit_unavailable`.
    """
    audit: Audit | None = connection.scope.get(_AUDIT)
    if audit is None:  # An application without its door, as some tests build it.
        require(connection, scope)
        yield
        return
    async with audit.doing(connection, scope, action, target):
        yield


def tell_target(connection: HTTPConnection, target: str) -> None:
    """Say what a request was done to, where only its route knows."""
    connection.scope[_TARGET] = target


def _asked(scope: Scope) -> Asked | None:
    """What a request of an audited route does; None for all other requests."""
    method, path = scope.get("method", ""), scope["path"]
    if rules.scope_of(scope["type"], method, path) not in AUDITED:
        return None
    return asked_for(method, path)


def _entry(
    scope: Scope,
    action: str,
    target: str,
    outcome: Outcome,
    *,
    status: int | None = None,
    code: str = "",
    began: int | None = None,
) -> Entry:
    owner: principal.Principal | None = scope.get(PRINCIPAL) or scope.get(KNOWN)
    client = scope.get("client")
    return Entry(
        tenant="" if owner is None else owner.tenant,
        who="anonymous" if owner is None else owner.key,
        address=client[0] if client else "",
        request_id=scope.get(REQUEST_ID, ""),
        action=action,
        target=target,
        outcome=outcome,
        status=status,
        code=code,
        began=began,
    )


def _named(body: bytes, field: str) -> str:
    """What a body names; empty where it does not, or its route will refuse it."""
    if not body or len(body) > OPERATORS_BYTES:
        return ""
    with contextlib.suppress(LmxError):
        found = decode_object(body).get(field)
        return found if isinstance(found, str) else ""
    return ""


def _status_in(message: Message) -> int | None:
    match message["type"]:
        case "http.response.start" | "websocket.http.response.start":
            return message["status"]
        case "websocket.accept":
            return _SWITCHING_PROTOCOLS
        case "websocket.close":
            return _FORBIDDEN
        case _:
            return None


def _outcome(status: int) -> Outcome:
    if status in _REFUSALS:
        return "refused"
    return "ok" if status < 400 else "failed"
