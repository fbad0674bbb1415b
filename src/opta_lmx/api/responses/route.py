"""The Responses API over HTTP: make, read, delete, cancel, count and compact."""

import asyncio
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from opta_lmx.api.callers import principal_of
from opta_lmx.api.calls import Calls, ignored_header
from opta_lmx.api.documents import error_docs, inference_docs
from opta_lmx.api.fields import BodyReader
from opta_lmx.api.responses import wire
from opta_lmx.api.responses.compacting import compact, parse_compact, rules_of, summarising
from opta_lmx.api.responses.conversation import complete
from opta_lmx.api.responses.events import DONE, server_sent
from opta_lmx.api.responses.jobs import Jobs, not_in_background
from opta_lmx.api.responses.making import Making, Wanted, own_words, ports_of
from opta_lmx.api.responses.parse import Draft, parse_count, parse_create
from opta_lmx.api.sse import encode
from opta_lmx.api.streaming import EventStream, PlainAnswer, StreamWriter
from opta_lmx.core.errors import LmxError, unsupported
from opta_lmx.core.ids import uuid7
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.serving.answering import Answering
from opta_lmx.serving.responses import RUNNING, StoredResponses

Json = dict[str, Any]

_SWEEP_S = 600.0
_JSON = "application/json"


class _State(msgspec.Struct):
    """What a stored response says of its making."""

    status: str
    background: bool


_state = msgspec.json.Decoder(_State)


class ResponsesRoute:
    """Every HTTP route of the Responses API.

    Args:
        calls: admits and reads requests.
        store: where responses are kept.
        jobs: makes responses in the background.
        telemetry: told when the store could not be tidied.
    """

    def __init__(
        self, calls: Calls, store: StoredResponses, jobs: Jobs, telemetry: Telemetry
    ) -> None:
        self._calls = calls
        self._store = store
        self._ports = ports_of(calls, store)
        self._telemetry = telemetry
        self._jobs = jobs
        self._tidied_at: float | None = None
        self._tidying: asyncio.Task[None] | None = None
        self._read = BodyReader(parse_create, lenient=calls.lenient)
        self._read_count = BodyReader(parse_count, lenient=calls.lenient)
        self._read_compact = BodyReader(parse_compact, lenient=calls.lenient)

    def router(self) -> APIRouter:
        """The routes, with their bodies and answers documented."""
        router = APIRouter()
        base = "/v1/responses"
        for path, handler, docs in (
            (base, self.create, inference_docs(wire.CreateResponse)),
            (f"{base}/compact", self.compact, inference_docs(wire.CompactResponse, None)),
            (f"{base}/input_tokens", self.count, inference_docs(wire.CountTokens, None)),
        ):
            router.add_api_route(path, handler, methods=["POST"], response_model=None, **docs)
        one = f"{base}/{{response_id}}"
        known = error_docs(400, 401, 403, 404, 500, 503)
        for method, path, stored in (
            ("GET", one, self.get),
            ("DELETE", one, self.delete),
            ("POST", f"{one}/cancel", self.cancel),
            ("GET", f"{one}/input_items", self.input_items),
        ):
            router.add_api_route(
                path, stored, methods=[method], response_model=None, responses=known
            )
        return router

    async def create(self, request: Request) -> Response:
        """Create a response."""
        ticket, read = await self._calls.admit(request, self._read)
        wanted = await complete(read.call, ticket, request.headers, self._store)
        making = Making(wanted, ticket, self._ports)
        headers = ignored_header(read)
        if read.call.stores:
            self._tidy()
        if read.call.body.background:
            return await self._detached(making, headers)
        if not read.call.body.stream:

            async def plain() -> bytes:
                return encode(await making.whole())

            return PlainAnswer(plain, close=making.close, headers=headers)
        return self._streamed(making, headers)

    def _streamed(self, making: Making, headers: dict[str, str]) -> Response:
        async def produce(writer: StreamWriter) -> None:
            async def send(events: list[Json]) -> None:
                await writer.write(server_sent(events))

            await making.tell(send, self._calls.limits.prepare_before_headers_s)
            await writer.write(DONE)

        return EventStream(
            produce,
            noop=lambda: server_sent(making.events.noop()),
            keepalive_s=self._calls.limits.keepalive_s,
            clock=self._calls.clock,
            close=making.close,
            headers=headers,
        )

    async def _detached(self, making: Making, headers: dict[str, str]) -> Response:
        queued = encode(making.response)
        try:
            await self._jobs.start(making)
        except BaseException:  # whatever it is, the place in the line must not be lost
            making.close()
            raise
        return Response(queued, headers=headers, media_type=_JSON)

    async def get(
        self,
        request: Request,
        response_id: str,
        *,
        stream: bool = False,
        include: Annotated[list[str] | None, Query()] = None,
        include_obfuscation: bool = False,
        starting_after: int | None = None,
    ) -> Response:
        """A stored response."""
        asked = {"stream": stream, "include": include, "include_obfuscation": include_obfuscation}
        _refuse({**asked, "starting_after": starting_after is not None})
        tenant = principal_of(request).tenant
        body = await self._store.get(response_id, tenant)
        if not self._jobs.runs(response_id) and _state.decode(body).status in RUNNING:
            await self._jobs.mend()
            body = await self._store.get(response_id, tenant)
        return Response(body, media_type=_JSON)

    async def delete(self, request: Request, response_id: str) -> Response:
        """Forget a stored response; one that is being made is stopped."""
        tenant = principal_of(request).tenant
        await self._store.get(response_id, tenant)  # of another tenant nothing is stopped
        await self._jobs.cancel(response_id)
        await self._store.delete(response_id, tenant)
        return _json({"id": response_id, "object": "response", "deleted": True})

    async def cancel(self, request: Request, response_id: str) -> Response:
        """Stop making a response in the background; one that has ended stays as it is."""
        tenant = principal_of(request).tenant
        body = await self._store.get(response_id, tenant)
        if not _state.decode(body).background:
            raise not_in_background()
        await self._jobs.cancel(response_id)
        return Response(await self._store.get(response_id, tenant), media_type=_JSON)

    async def input_items(
        self,
        request: Request,
        response_id: str,
        *,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
        after: str | None = None,
        include: Annotated[list[str] | None, Query()] = None,
    ) -> Response:
        """The items a response was asked, without those of the turns before it."""
        _refuse({"include": include})
        tenant = principal_of(request).tenant
        page = await self._store.input_items(
            response_id, limit=limit, order=order, after=after, tenant=tenant
        )
        ids = [item["id"] for item in page.items]
        return _json(
            {
                "object": "list",
                "data": page.items,
                "first_id": ids[0] if ids else None,
                "last_id": ids[-1] if ids else None,
                "has_more": page.has_more,
            }
        )

    async def count(self, request: Request) -> Response:
        """Count the tokens a request would put before the model."""
        answering, _, headers = await self._aside(request, self._read_count)

        async def plain() -> bytes:
            with own_words():
                accepted = await answering.open()
            answering.close()  # before the answer is sent: its client may ask again at once
            tokens = accepted.prompt_tokens
            return encode({"object": "response.input_tokens", "input_tokens": tokens})

        return PlainAnswer(plain, close=answering.close, headers=headers)

    async def compact(self, request: Request) -> Response:
        """Make a conversation short."""
        answering, wanted, headers = await self._aside(request, self._read_compact, compacting=True)
        rules = rules_of([*wanted.history, *wanted.items])

        async def plain() -> bytes:
            made = "resp_" + uuid7(self._calls.clock.now_ms())
            with own_words():
                return encode(await compact(answering, rules, made))

        return PlainAnswer(plain, close=answering.close, headers=headers)

    async def _aside(
        self, request: Request, reader: BodyReader[Draft], *, compacting: bool = False
    ) -> tuple[Answering, Wanted, dict[str, str]]:
        """Admit a call that is about a conversation but no turn of it."""
        ticket, read = await self._calls.admit(request, reader)
        wanted = await complete(read.call, ticket, request.headers, self._store)
        asked = summarising(wanted.request) if compacting else wanted.request
        # How long a summary may be is not its caller's wish: that gives way to the key's cap.
        asked, longest = msgspec.structs.replace(asked, max_tokens=None), asked.max_tokens
        # What is only counted runs nowhere, and takes nothing from anybody's budget.
        answering = self._calls.serving.run(
            ticket, asked, default_tokens=longest, measured=compacting
        )
        return answering, wanted, ignored_header(read)

    def _tidy(self) -> None:
        """Now and then, beside other work: remove what expired, mend what was interrupted."""
        now = self._calls.clock.monotonic()
        recent = self._tidied_at is not None and now - self._tidied_at < _SWEEP_S
        busy = self._tidying is not None and not self._tidying.done()
        if busy or (recent and not self._store.crowded):
            return
        self._tidied_at = now
        # Held, because the loop itself holds its tasks but weakly.
        self._tidying = asyncio.ensure_future(self._tidied())

    async def _tidied(self) -> None:
        try:
            await self._jobs.mend()
            await self._store.sweep()
        except LmxError as error:
            self._telemetry.log("warning", "stored responses not tidied", code=error.code)


def _json(value: object) -> Response:
    return Response(encode(value), media_type=_JSON)


def _refuse(asked: dict[str, Any]) -> None:
    """A stored response is shown as it was made, not replayed."""
    for name, value in asked.items():
        if value:
            raise unsupported(f"The parameter '{name}' is not supported here.", name)
