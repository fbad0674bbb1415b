"""`POST /v1/chat/completions`, streamed and plain."""

import asyncio

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from opta_lmx.api.body import BodyParser, read_body
from opta_lmx.api.openai import parse, render
from opta_lmx.api.openai.render import ChunkStream
from opta_lmx.api.openai.wire import ChatCompletionRequest
from opta_lmx.api.streaming import EventStream, PlainAnswer, StreamWriter
from opta_lmx.codec.answer import Answer, Delta, TextDelta
from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.ids import random_id
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.core.types import Accepted
from opta_lmx.serving.run import ModelRun
from opta_lmx.serving.service import Serving, Ticket


class ChatLimits(msgspec.Struct, frozen=True):
    """Body size (bytes), and the times (s) a body, a first byte and a silent stream may take."""

    body_limit_bytes: int
    body_timeout_s: float
    keepalive_s: float
    prepare_before_headers_s: float


class ChatRoute:
    """Parses a chat request, runs it, renders the answer."""

    def __init__(
        self, serving: Serving, limits: ChatLimits, clock: Clock, telemetry: Telemetry
    ) -> None:
        self._serving = serving
        self._limits = limits
        self._clock = clock
        self._telemetry = telemetry
        self._parser = BodyParser()

    def router(self) -> APIRouter:
        """The route, with its body documented."""
        router = APIRouter()
        router.add_api_route(
            "/v1/chat/completions",
            self.create,
            methods=["POST"],
            response_model=None,
            openapi_extra={
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {"schema": ChatCompletionRequest.model_json_schema()}
                    },
                }
            },
        )
        return router

    async def create(self, request: Request) -> Response:
        """Create a chat completion."""
        body = await read_body(
            request, limit=self._limits.body_limit_bytes, timeout_s=self._limits.body_timeout_s
        )
        ticket, call = await self._admit(body)
        exchange = ChatExchange(
            self._serving.run(ticket, call.request), call, self._limits, self._telemetry
        )
        if not call.stream:
            return PlainAnswer(exchange.plain, close=exchange.close)
        return EventStream(
            exchange.stream,
            noop=exchange.chunks.noop(),
            keepalive_s=self._limits.keepalive_s,
            clock=self._clock,
            close=exchange.close,
        )

    async def _admit(self, body: bytes) -> tuple[Ticket, parse.ChatCall]:
        """Pass the first gate, before the messages are parsed if the model is there.

        Otherwise after it: an invalid request must not cost the loading of a model.
        """
        model = (await self._parser.parse(parse.peek, body)).model
        if not self._serving.is_loaded(model):
            call = await self._parser.parse(parse.parse_chat, body)
            return self._serving.gate(model), call
        ticket = self._serving.gate(model)
        try:
            return ticket, await self._parser.parse(parse.parse_chat, body)
        except (LmxError, asyncio.CancelledError):
            ticket.give_back()
            raise


class ChatExchange:
    """One chat request and its answer."""

    def __init__(
        self, run: ModelRun, call: parse.ChatCall, limits: ChatLimits, telemetry: Telemetry
    ) -> None:
        self._run = run
        self._call = call
        self._limits = limits
        self._telemetry = telemetry
        self._id = random_id("chatcmpl-")
        self._created = run.created_s
        self._dialect = ""
        self.chunks = ChunkStream(self._id, self._created, call.request.model)

    def close(self) -> None:
        """Free what the request holds, however it ended."""
        self._run.close()

    async def plain(self) -> bytes:
        """The whole answer as one JSON object."""
        answer = self._answer(await self._run.open())
        deltas: list[Delta] = []
        async for event in self._run:
            deltas += answer.feed(event.piece)
            if answer.stopped:
                break
        rest, finish = self._finish(answer)
        return render.completion(
            id=self._id,
            created=self._created,
            model=self._call.request.model,
            deltas=[*deltas, *rest],
            finish_reason=finish,
            usage=self._run.usage,
        )

    async def stream(self, writer: StreamWriter) -> None:
        """The answer as chunks; errors after the first byte become an error event."""
        try:
            await self._stream(writer)
        except LmxError as error:
            if not writer.started:
                raise
            await writer.write(self.chunks.error(error))

    async def _stream(self, writer: StreamWriter) -> None:
        chunks = self.chunks
        answer = self._answer(await self._open(writer))
        if not writer.started:
            await writer.write(chunks.role())
        async for event in self._run:
            data = self._render(answer.feed(event.piece))
            if data:
                await writer.write(data)
            if answer.stopped:
                break
        deltas, finish = self._finish(answer)
        tail = self._render(deltas) + chunks.finish(finish)
        if self._call.include_usage:
            tail += chunks.usage(self._run.usage)
        await writer.write(tail + render.DONE)

    async def _open(self, writer: StreamWriter) -> Accepted:
        """Pass the second gate; a wait longer than the limit (loading) sends the headers first."""
        opening = asyncio.ensure_future(self._run.open())
        try:
            await asyncio.wait({opening}, timeout=self._limits.prepare_before_headers_s)
            if not opening.done():
                await writer.write(self.chunks.role())
            return await opening
        finally:
            opening.cancel()

    def _answer(self, accepted: Accepted) -> Answer:
        self._dialect = accepted.tool_dialect
        return Answer(self._call.request.stop, self._dialect if self._call.uses_tools else None)

    def _finish(self, answer: Answer) -> tuple[list[Delta], str]:
        reason = "stop" if answer.stopped else self._run.finish_reason
        if reason is None:
            raise LmxError(ErrorKind.INTERNAL, "The answer ended without a reason.")
        self._run.close()  # The slot must not wait for a client that reads the rest slowly.
        deltas, finish = answer.finish(reason)
        if answer.parse_failures:
            self._telemetry.count(
                "tool_parse_failures_total", answer.parse_failures, dialect=self._dialect
            )
        return deltas, finish

    def _render(self, deltas: list[Delta]) -> bytes:
        return b"".join(
            self.chunks.text(delta.text)
            if isinstance(delta, TextDelta)
            else self.chunks.call(delta)
            for delta in deltas
        )
