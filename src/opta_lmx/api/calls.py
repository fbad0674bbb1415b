"""From an HTTP request to an admitted model call: the way every inference route goes."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import msgspec
from starlette.requests import HTTPConnection, Request

from opta_lmx.api.body import BodyParser, read_body
from opta_lmx.api.callers import caller_of, session_in
from opta_lmx.api.errors import Envelopes
from opta_lmx.api.exchange import Answers, CallLimits, Exchange, Rendering
from opta_lmx.api.fields import BodyReader, Read
from opta_lmx.api.json_body import Head, read_head
from opta_lmx.api.ratelimit import ACCOUNT
from opta_lmx.backends.frames import ModelKind
from opta_lmx.core.clock import Clock
from opta_lmx.core.principal import Caller
from opta_lmx.core.types import GenerationRequest
from opta_lmx.engine.memory import keep
from opta_lmx.serving.answering import Answering
from opta_lmx.serving.service import WRITERS, Serving, Ticket

IGNORED_HEADER = "x-opta-ignored-fields"

_Call = TypeVar("_Call")


class Calls:
    """Reads, admits and answers requests, for the routes of every dialect.

    Args:
        serving: the door to the models.
        limits: sizes and times.
        clock: time.
        envelopes: takes keys out of what is told.
        lenient: unknown fields pass and are named in a header (`protocol.unknown_fields`).
    """

    def __init__(
        self,
        serving: Serving,
        limits: CallLimits,
        clock: Clock,
        envelopes: Envelopes,
        *,
        lenient: bool = False,
    ) -> None:
        self.serving = serving
        self.limits = limits
        self.clock = clock
        self.lenient = lenient
        self.envelopes = envelopes
        self._parser = BodyParser()

    async def body(self, request: Request) -> bytes:
        """Read the body within its limits. Raises what `read_body` raises."""
        return await read_body(
            request, limit=self.limits.body_limit_bytes, timeout_s=self.limits.body_timeout_s
        )

    async def parse(self, reader: BodyReader[_Call], body: bytes) -> Read[_Call]:
        """Parse a body that needs no admission. Raises LmxError."""
        read = await self._parser.parse(reader, body)
        if not read.ignored:
            return read
        # Callers choose these names, and are told them again.
        ignored = tuple(self.envelopes.mask(name) for name in read.ignored)
        return msgspec.structs.replace(read, ignored=ignored)

    async def admit(
        self,
        request: Request,
        reader: BodyReader[_Call],
        read_head: Callable[[bytes], Head] = read_head,
        kinds: Collection[ModelKind] = WRITERS,
    ) -> tuple[Ticket, Read[_Call]]:
        """Read the body of an HTTP request and admit it; see `admit_body`."""
        body = await self.body(request)
        return await self.admit_body(request, body, reader, read_head, kinds)

    async def admit_body(
        self,
        connection: HTTPConnection,
        body: bytes,
        reader: BodyReader[_Call],
        read_head: Callable[[bytes], Head] = read_head,
        kinds: Collection[ModelKind] = WRITERS,
    ) -> tuple[Ticket, Read[_Call]]:
        """Pass the first gate, before the rest of the body is parsed if the model is there.

        Otherwise after it: an invalid request must not cost the loading of a model. The
        ticket must be run or given back.

        Args:
            connection: the request, or the WebSocket it came over: who asks.
            body: of the request.
            reader: parses it.
            read_head: finds the model and how many places the call needs, where that is not `n`.
            kinds: what the model may be made for.

        Raises:
            LmxError: the body is wrong, or the gate refuses.
        """
        head = await self._parser.parse(read_head, body)
        caller = caller_of(connection, head)
        if not self.serving.is_loaded(head.model, caller.principal):
            read = await self.parse(reader, body)
            return _kept(await self._admit(connection, head, kinds, caller), head, read), read
        ticket = await self._admit(connection, head, kinds, caller)
        try:
            read = await self.parse(reader, body)
            return _kept(ticket, head, read), read
        except BaseException:  # whatever it is, the place in the line must not be lost
            ticket.give_back()
            raise

    async def _admit(
        self, connection: HTTPConnection, head: Head, kinds: Collection[ModelKind], caller: Caller
    ) -> Ticket:
        account = self.serving.budgeting.account(caller.principal)
        connection.scope[ACCOUNT] = account
        return await self.serving.admit(
            head.model, head.answers, kinds, head.counted_by, caller=caller, account=account
        )

    def exchange(
        self,
        request: Request,
        ticket: Ticket,
        wanted: GenerationRequest,
        rendering: Callable[[Answering], Rendering],
    ) -> Exchange:
        """The call's answer; its `response` is what the route returns.

        Args:
            request: whose headers may name the session.
            ticket: from `admit`.
            wanted: the call.
            rendering: makes the rendering of a call.
        """
        answering = self.serving.run(ticket, with_session(wanted, request.headers))
        return self.exchanged(answering, rendering(answering))

    def exchanged(self, answers: Answers, rendering: Rendering) -> Exchange:
        """As `exchange`, for a call that runs already, or several as one."""
        return Exchange(answers, rendering, self.limits, self.clock, self.envelopes.masked)


def with_session(wanted: GenerationRequest, headers: Mapping[str, str]) -> GenerationRequest:
    """The request with a session from its headers, where its body names none."""
    if wanted.cache_key:
        return wanted
    session = session_in(headers)
    return wanted if session is None else msgspec.structs.replace(wanted, cache_key=session)


def ignored_header(read: Read[_Call]) -> dict[str, str]:
    """The header that names unknown fields which were let pass; empty for none."""
    if not read.ignored:
        return {}
    names = ", ".join(read.ignored).encode("ascii", "replace").decode()
    return {IGNORED_HEADER: "".join(char if char.isprintable() else "?" for char in names)}


def _kept(ticket: Ticket, head: Head, read: Read[Any]) -> Ticket:
    """Note how long the model is to stay, where the request may say so."""
    if "ttl" not in read.ignored:
        keep(ticket.runtime, head.keep_s)
    return ticket
