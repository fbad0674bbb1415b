"""`/v1/chat/stream`: many chat requests over one WebSocket, each cancellable by its id."""

import asyncio

from fastapi import APIRouter, WebSocket

from opta_lmx.api.body import BodyParser, check_size
from opta_lmx.api.calls import Calls, with_session
from opta_lmx.api.errors import unforeseen
from opta_lmx.api.fields import BodyReader
from opta_lmx.api.http1 import connection_of
from opta_lmx.api.streaming import ClientGone
from opta_lmx.api.ws.frames import (
    PONG,
    ChatCall,
    ChatDialect,
    Frames,
    Head,
    chat_reader,
    check_ping,
    read_cancel,
    read_head,
)
from opta_lmx.api.ws.turn import Turn
from opta_lmx.api.ws_connection import Outbox
from opta_lmx.core.errors import ErrorKind, LmxError, invalid
from opta_lmx.core.ids import random_id
from opta_lmx.core.telemetry import Telemetry

PATH = "/v1/chat/stream"
MAX_REQUESTS_PER_SOCKET = 8
KEEPALIVE_S = 10.0
"""The longest a request is silent: clients drop a socket that says nothing for 30 s."""

_UNSUPPORTED_DATA = 1003
_RESTARTING = 1012
_BUSY_RETRY_S = 1.0


class ChatStream:
    """The route.

    Args:
        calls: admits and answers.
        dialect: what a chat request and its errors look like.
        telemetry: told of every request on a socket.
        max_requests: that one socket may have waiting and running.
    """

    def __init__(
        self,
        calls: Calls,
        dialect: ChatDialect,
        telemetry: Telemetry,
        max_requests: int = MAX_REQUESTS_PER_SOCKET,
    ) -> None:
        self.calls = calls
        self.dialect = dialect
        self.telemetry = telemetry
        self.max_requests = max_requests
        self.parser = BodyParser()
        self.read: BodyReader[ChatCall] = chat_reader(dialect, lenient=calls.lenient)

    def router(self) -> APIRouter:
        """The route."""
        router = APIRouter()
        router.add_api_websocket_route(PATH, self.serve)
        return router

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one socket until it closes."""
        await websocket.accept()
        await _Socket(self, websocket).run()


class _Socket:
    """One connection and the requests on it."""

    def __init__(self, route: ChatStream, websocket: WebSocket) -> None:
        self._route = route
        self._websocket = websocket
        self._outbox = Outbox(websocket.send, connection_of(websocket.scope))
        self._turns: dict[str, tuple[Turn, asyncio.Task[None]]] = {}
        self._clock = route.calls.clock
        self._keepalive_s = min(KEEPALIVE_S, route.calls.limits.keepalive_s)

    async def run(self) -> None:
        ticker = asyncio.create_task(self._keep_alive())
        try:
            await self._read_frames()
        except ClientGone:
            self._websocket.scope["opta_lmx.client_gone"] = True
        finally:
            ticker.cancel()
            await self._end_turns()
            self._outbox.close()

    async def _read_frames(self) -> None:
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                cut = bool(self._turns) or self._outbox.closed
                if cut and message.get("code") != _RESTARTING:
                    raise ClientGone
                return
            text = message.get("text")
            if text is None:
                await self._refuse_binary()
                return
            await self._take(text.encode())
            # Frames that are here already, and refused at once, would never let others run.
            await self._clock.sleep(0)

    async def _refuse_binary(self) -> None:
        wrong = invalid("Binary frames are not supported: send JSON as text.", code="binary_frame")
        await self._fail(None, wrong)
        await self._outbox.drain()
        self._outbox.close()
        await self._websocket.close(_UNSUPPORTED_DATA)

    async def _take(self, body: bytes) -> None:
        """Act on one frame; what is wrong with it is told, and the socket stays open."""
        head = Head("", None)
        try:
            check_size("frame", len(body), self._route.calls.limits.body_limit_bytes)
            head = self._told_again(await self._route.parser.parse(read_head, body))
            match head.type:
                case "chat.request":
                    await self._request(head, body)
                case "chat.cancel":
                    self._cancel(read_cancel(body))
                case "ping":
                    check_ping(body)
                    await self._outbox.send(PONG)
                case _:
                    raise invalid("This type of frame is unknown.", param="type")
        except LmxError as error:
            # An error under the id of a running request would read as that one's end.
            await self._fail(None if head.request_id in self._turns else head.request_id, error)

    def _told_again(self, head: Head) -> Head:
        """The head, unless its id, which every answer repeats, has a key in it."""
        told = head.request_id or ""
        if self._route.calls.envelopes.mask(told) != told:
            raise invalid("There is a key in 'request_id'.", param="request_id")
        return head

    async def _request(self, head: Head, body: bytes) -> None:
        request_id = head.request_id or random_id("req-")
        if request_id in self._turns:
            raise invalid(
                f"A request with the id '{request_id}' is not finished yet.",
                param="request_id",
                code="duplicate_request_id",
            )
        try:
            turn, ignored = await self._admit(request_id, body)
        except LmxError as error:
            status = await self._fail(head.request_id, error)
            self._count(status)
            return
        task = asyncio.create_task(turn.run(ignored))
        self._turns[request_id] = (turn, task)
        task.add_done_callback(lambda done: self._finished(request_id, turn, done))
        # A task that is cancelled before its first step would end without a word.
        await turn.started.wait()

    async def _admit(self, request_id: str, body: bytes) -> tuple[Turn, tuple[str, ...]]:
        route = self._route
        if len(self._turns) >= route.max_requests:
            raise LmxError(
                ErrorKind.RATE_LIMITED,
                f"This socket has {route.max_requests} requests already. Retry later.",
                code="too_many_requests_on_socket",
                retry_after=_BUSY_RETRY_S,
            )
        ticket, read = await route.calls.admit_body(self._websocket, body, route.read)
        wanted = with_session(read.call.request, self._websocket.headers)
        answering = route.calls.serving.run(ticket, wanted)
        frames = Frames(request_id, route.dialect)
        return Turn(read.call, answering, frames, self._outbox, self._clock), read.ignored

    def _cancel(self, request_id: str) -> None:
        found = self._turns.get(request_id)
        if found is None:
            raise LmxError(
                ErrorKind.NOT_FOUND,
                f"No request '{request_id}' waits or runs on this socket.",
                code="request_not_found",
                param="request_id",
            )
        turn, task = found
        turn.cancel(task)

    def _finished(self, request_id: str, turn: Turn, task: asyncio.Task[None]) -> None:
        self._turns.pop(request_id, None)
        turn.close()
        self._count(turn.status)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ClientGone):
            told = unforeseen(error, self._route.telemetry)
            telling = asyncio.ensure_future(self._fail(request_id, told))
            telling.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _fail(self, request_id: str | None, error: LmxError) -> int:
        status, frame = Frames(request_id, self._route.dialect).failed(error)
        await self._outbox.send(frame)
        return status

    def _count(self, status: int) -> None:
        self._route.telemetry.count("requests_total", route=PATH, code=str(status))

    async def _keep_alive(self) -> None:
        """Let no request be silent for longer than the interval."""
        while True:
            now = self._clock.monotonic()
            idle_s = [now - turn.last_sent for turn, _ in self._turns.values()]
            await self._clock.sleep(max(0.0, self._keepalive_s - max(idle_s, default=0.0)))
            for turn, _ in list(self._turns.values()):
                if self._clock.monotonic() - turn.last_sent >= self._keepalive_s:
                    try:
                        await turn.keep_alive()
                    except ClientGone:
                        return

    async def _end_turns(self) -> None:
        """The client is gone: nothing runs on for it."""
        tasks = [task for _, task in self._turns.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
