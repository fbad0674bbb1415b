"""`POST /v1/completions`, streamed and plain: prompts continued as they stand."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from opta_lmx.api.calls import Calls, ignored_header, with_session
from opta_lmx.api.documents import inference_docs
from opta_lmx.api.fields import BodyReader
from opta_lmx.api.openai.completions_parse import DEFAULT_MAX_TOKENS, CompletionParser
from opta_lmx.api.openai.completions_render import CompletionRendering
from opta_lmx.api.openai.completions_wire import CompletionRequest
from opta_lmx.api.openai.generation import DEFAULT_MAX_CHOICES
from opta_lmx.core.ids import random_id


class CompletionsRoute:
    """Parses a text completion request, runs it, renders the answers.

    Args:
        calls: admits and answers.
        max_choices: the most answers of one call, over all its prompts.
    """

    def __init__(self, calls: Calls, max_choices: int = DEFAULT_MAX_CHOICES) -> None:
        self._calls = calls
        self._parser = CompletionParser(max_choices)
        self._read = BodyReader(self._parser, lenient=calls.lenient)

    def router(self) -> APIRouter:
        """The route, with its body and answers documented."""
        router = APIRouter()
        router.add_api_route(
            "/v1/completions",
            self.create,
            methods=["POST"],
            response_model=None,
            **inference_docs(CompletionRequest),
        )
        return router

    async def create(self, request: Request) -> Response:
        """Create a text completion."""
        ticket, read = await self._calls.admit(request, self._read, self._parser.head)
        call = read.call
        wanted = [with_session(one, request.headers) for one in call.requests]
        batch = self._calls.serving.run_prompts(
            ticket, wanted, default_tokens=DEFAULT_MAX_TOKENS, generate=call.generate
        )
        rendering = CompletionRendering(
            random_id("cmpl-"), batch.created_s, call, lambda: batch.accepted
        )
        exchange = self._calls.exchanged(batch, rendering)
        return exchange.response(stream=call.stream, headers=ignored_header(read))
