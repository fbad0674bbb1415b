"""`POST /v1/messages`, streamed and plain, and `POST /v1/messages/count_tokens`."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from opta_lmx.api.anthropic.errors import request_headers
from opta_lmx.api.anthropic.parse import parse_count, parse_messages
from opta_lmx.api.anthropic.render import MessagesRendering
from opta_lmx.api.anthropic.wire import MessagesRequest, PromptRequest
from opta_lmx.api.calls import Calls, ignored_header
from opta_lmx.api.documents import inference_docs
from opta_lmx.api.fields import BodyReader
from opta_lmx.api.sse import encode
from opta_lmx.api.streaming import PlainAnswer
from opta_lmx.core.ids import random_id


class MessagesRoute:
    """Parses a messages request, runs it, renders the answer; or counts its prompt.

    Args:
        calls: admits and answers.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._read = BodyReader(parse_messages, lenient=calls.lenient)
        self._read_count = BodyReader(parse_count, lenient=calls.lenient)

    def router(self) -> APIRouter:
        """Both routes, with their bodies and answers documented."""
        router = APIRouter()
        for path, handler, docs in (
            ("/v1/messages", self.create, inference_docs(MessagesRequest)),
            ("/v1/messages/count_tokens", self.count, inference_docs(PromptRequest, None)),
        ):
            router.add_api_route(
                path, handler, methods=["POST"], response_model=None, **_docs(docs)
            )
        return router

    async def create(self, request: Request) -> Response:
        """Create a message."""
        ticket, read = await self._calls.admit(request, self._read)
        call = read.call
        exchange = self._calls.exchange(
            request,
            ticket,
            call.request,
            lambda _: MessagesRendering(
                random_id("msg_"), call.request.model, hide_thinking=call.hide_thinking
            ),
        )
        headers = {**ignored_header(read), **request_headers()}
        return exchange.response(stream=call.stream, headers=headers)

    async def count(self, request: Request) -> Response:
        """Count the tokens of a prompt."""
        ticket, read = await self._calls.admit(request, self._read_count)

        async def produce() -> bytes:
            tokens = await self._calls.serving.count(ticket, read.call)
            return encode({"input_tokens": tokens})

        headers = {**ignored_header(read), **request_headers()}
        return PlainAnswer(produce, close=ticket.give_back, headers=headers)


def _docs(docs: dict[str, Any]) -> dict[str, Any]:
    """As for every dialect, but that 529 stands for 502, 503 and 507."""
    responses = docs["responses"]
    overloaded = {**responses.pop(503), "description": "Overloaded, out of service or starting."}
    for status in (502, 507):
        del responses[status]
    return {**docs, "responses": {**responses, 529: overloaded}}
