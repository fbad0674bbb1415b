"""The Responses API over a WebSocket: one turn after another, the same events as in a stream.

A connection remembers its latest conversations, stored or not, so a client that stores nothing
sends only what is new.
"""

import asyncio
from collections import OrderedDict
from typing import Any

import msgspec
from fastapi import APIRouter, WebSocket

from opta_lmx.api.body import check_size
from opta_lmx.api.calls import Calls
from opta_lmx.api.fields import BodyReader
from opta_lmx.api.http1 import connection_of
from opta_lmx.api.responses.conversation import Conversation, complete
from opta_lmx.api.responses.making import Making, ports_of
from opta_lmx.api.responses.parse import Draft, parse_create
from opta_lmx.api.sse import encode
from opta_lmx.api.streaming import ClientGone
from opta_lmx.api.ws_connection import Outbox
from opta_lmx.core.errors import ErrorKind, LmxError, invalid, unsupported
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.serving.responses import StoredResponses

Json = dict[str, Any]

PATH = "/v1/responses"
CREATE = "response.create"
MAX_REMEMBERED = 4
"""Conversations one connection remembers."""
MAX_WAITING = 16
"""Messages that may wait while a turn is made, of one largest body together; more are refused."""

_RETRY_S = 1.0
_ONLY_HTTP = ("stream_options", "background")


class ResponsesSocket:
    """The route of the WebSocket.

    Args:
        calls: admits requests.
        store: where responses are kept.
        telemetry: told of every turn.
    """

    def __init__(self, calls: Calls, store: StoredResponses, telemetry: Telemetry) -> None:
        self.calls = calls
        self.store = store
        self.telemetry = telemetry
        self.read = BodyReader(_parse_message, lenient=calls.lenient)

    def router(self) -> APIRouter:
        """The route."""
        router = APIRouter()
        router.add_api_websocket_route(PATH, self.serve)
        return router

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one connection until it closes."""
        await websocket.accept()
        await _Connection(self, websocket).run()


class _Connection:
    """One connection and what it remembers."""

    def __init__(self, route: ResponsesSocket, websocket: WebSocket) -> None:
        self._route = route
        self._websocket = websocket
        self._calls = route.calls
        self._ports = ports_of(route.calls, route.store)
        self._outbox = Outbox(websocket.send, connection_of(websocket.scope))
        self._remembered: OrderedDict[str, Conversation] = OrderedDict()
        self._inbox: asyncio.Queue[bytes] = asyncio.Queue()
        self._waiting_bytes = 0
        self._telling = asyncio.Lock()
        self._last_sent = 0.0

    async def run(self) -> None:
        """Read ahead and answer in turn; a client that goes ends what is being made."""
        reading = asyncio.ensure_future(self._receive())
        answering = asyncio.ensure_future(self._answer())
        tasks = {reading, answering}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._outbox.close()
        for task in tasks:
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, ClientGone):
                raise error

    async def _receive(self) -> None:
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            body = (message.get("bytes") or b"") if text is None else text.encode()
            # Never a wait: the end of the connection is read here, too.
            if self._is_full(len(body)):
                await self._refuse(_too_many())
            else:
                self._waiting_bytes += len(body)
                self._inbox.put_nowait(body)

    def _is_full(self, more_bytes: int) -> bool:
        waiting = self._inbox.qsize()
        size = self._waiting_bytes + more_bytes
        return waiting >= MAX_WAITING or (
            waiting > 0 and size > self._calls.limits.body_limit_bytes
        )

    async def _answer(self) -> None:
        while True:
            body = await self._inbox.get()
            self._waiting_bytes -= len(body)
            try:
                await self._turn(body)
            except LmxError as error:
                await self._refuse(error)
            else:
                self._count(200)

    async def _refuse(self, error: LmxError) -> None:
        event = self._error(error)
        await self._send([event])
        self._count(event["status"])

    def _count(self, status: int) -> None:
        self._route.telemetry.count("requests_total", route=PATH, code=str(status))

    async def _turn(self, body: bytes) -> None:
        """One response. Raises what ends it before its first event."""
        check_size("message", len(body), self._calls.limits.body_limit_bytes)
        making = await self._begin(body)
        ticker = asyncio.ensure_future(self._keep_alive(making))
        try:
            await making.tell(self._send, self._calls.limits.prepare_before_headers_s)
        finally:
            ticker.cancel()
            making.close()
        self._remember(making)

    async def _begin(self, body: bytes) -> Making:
        ticket, read = await self._calls.admit_body(self._websocket, body, self._route.read)
        headers, store = self._websocket.headers, self._route.store
        wanted = await complete(read.call, ticket, headers, store, self._remembered)
        return Making(wanted, ticket, self._ports)

    def _remember(self, making: Making) -> None:
        """Keep the conversation up to this response; one that failed is not continued."""
        response = making.response
        if response["status"] not in ("completed", "incomplete"):
            return
        previous, stored = response["previous_response_id"], response["store"]
        if stored and previous not in self._remembered:
            return  # The store knows it all, and what of it was deleted since.
        wanted = making.wanted
        items = [*wanted.history, *wanted.items, *response["output"]]
        self._remembered[response["id"]] = Conversation(items, stored)
        while len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)

    async def _keep_alive(self, making: Making) -> None:
        clock, limit_s = self._calls.clock, self._calls.limits.keepalive_s
        self._last_sent = clock.monotonic()
        while True:
            due_s = self._last_sent + limit_s - clock.monotonic()
            if due_s <= 0:
                self._last_sent = clock.monotonic()
                if not self._telling.locked():
                    await self._send(making.events.noop())
            else:
                await clock.sleep(due_s)

    async def _send(self, events: list[Json]) -> None:
        """Send events that belong together; what says nothing must not come between them."""
        async with self._telling:
            for event in events:
                self._last_sent = self._calls.clock.monotonic()
                await self._outbox.send(encode(event))

    def _error(self, error: LmxError) -> Json:
        status, _, body = self._calls.envelopes.render(PATH, error)
        return {"type": "error", "status": status, "error": msgspec.json.decode(body)["error"]}


def _parse_message(fields: Json) -> Draft:
    """Read one message of the client: a body of `POST /v1/responses` with a `type` beside."""
    kind = fields.get("type")
    if kind != CREATE:
        if isinstance(kind, str):
            raise unsupported(f"Events of type '{kind[:64]}' are not supported.", "type")
        raise invalid(f"'type' must be '{CREATE}'.", param="type")
    for name in _ONLY_HTTP:
        if fields.get(name):
            raise unsupported(f"'{name}' has no meaning on a WebSocket.", name)
    if fields.get("stream") is False:
        raise unsupported("Every answer on a WebSocket is streamed.", "stream")
    if fields.get("generate") is False:
        raise unsupported("A turn that generates nothing is not supported.", "generate")
    other = {"type", "stream", "generate", *_ONLY_HTTP}
    return parse_create({name: value for name, value in fields.items() if name not in other})


def _too_many() -> LmxError:
    return LmxError(
        ErrorKind.RATE_LIMITED,
        "Too many messages wait on this connection.",
        code="too_many_requests_on_socket",
        retry_after=_RETRY_S,
    )
