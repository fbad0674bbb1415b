"""`POST /v1/chat/completions`, streamed and plain."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from opta_lmx.api.calls import Calls, ignored_header
from opta_lmx.api.documents import inference_docs
from opta_lmx.api.fields import BodyReader
from opta_lmx.api.openai.generation import DEFAULT_MAX_CHOICES
from opta_lmx.api.openai.parse import ChatParser
from opta_lmx.api.openai.render import ChatRendering
from opta_lmx.api.openai.wire import ChatCompletionRequest
from opta_lmx.core.ids import random_id


class ChatRoute:
    """Parses a chat request, runs it, renders the answer.

    Args:
        calls: admits and answers.
        max_choices: the largest `n`.
    """

    def __init__(self, calls: Calls, max_choices: int = DEFAULT_MAX_CHOICES) -> None:
        self._calls = calls
        self._read = BodyReader(ChatParser(max_choices), lenient=calls.lenient)

    def router(self) -> APIRouter:
        """The route, with its body and answers documented."""
        router = APIRouter()
        router.add_api_route(
            "/v1/chat/completions",
            self.create,
            methods=["POST"],
            response_model=None,
            **inference_docs(ChatCompletionRequest),
        )
        return router

    async def create(self, request: Request) -> Response:
        """Create a chat completion."""
        ticket, read = await self._calls.admit(request, self._read)
        call = read.call
        exchange = self._calls.exchange(
            request,
            ticket,
            call.request,
            lambda answering: ChatRendering(
                random_id("chatcmpl-"),
                answering.created_s,
                call.request.model,
                call.request.n,
                include_usage=call.include_usage,
                position=lambda: answering.position,
            ),
        )
        return exchange.response(stream=call.stream, headers=ignored_header(read))
