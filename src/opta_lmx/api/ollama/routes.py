"""`POST /api/chat` and `/api/generate`: answers, and loading and unloading without any."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from opta_lmx.api.audit import audited
from opta_lmx.api.audit_actions import LOAD, UNLOAD
from opta_lmx.api.callers import principal_of
from opta_lmx.api.calls import Calls, ignored_header, with_session
from opta_lmx.api.documents import inference_docs
from opta_lmx.api.fields import BodyReader, Read
from opta_lmx.api.json_body import decode
from opta_lmx.api.ollama.parse import Call, head, model_of, parse_chat, parse_generate
from opta_lmx.api.ollama.render import (
    OllamaRendering,
    Shape,
    chat_shape,
    generate_shape,
    nothing_said,
)
from opta_lmx.api.ollama.wire import ChatRequest, GenerateRequest
from opta_lmx.api.streaming import JSON_LINES
from opta_lmx.core.errors import ErrorKind, LmxError, unsupported
from opta_lmx.core.principal import Scope
from opta_lmx.core.types import Accepted, Usage
from opta_lmx.engine.memory import keep
from opta_lmx.engine.residency import Engine
from opta_lmx.engine.runtime import ModelRuntime
from opta_lmx.serving.answering import AnswerEvent, Answering

_PEEK_BYTES = 64 * 1024
"""Larger bodies are taken to ask something: looking first would hold up everybody else."""
_EMPTY = frozenset({b"", b"null", b"[]", b'""'})


class _Peek(msgspec.Struct):
    messages: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()
    suffix: msgspec.Raw = msgspec.Raw()


_peek_decoder = msgspec.json.Decoder(_Peek)


class GenerationRoutes:
    """Parses chat and generate requests, runs them, renders the answers.

    Args:
        calls: admits and answers.
        engine: loads and unloads.
    """

    def __init__(self, calls: Calls, engine: Engine) -> None:
        self._calls = calls
        self._engine = engine
        self._chat = BodyReader(parse_chat, lenient=calls.lenient)
        self._generate = BodyReader(parse_generate, lenient=calls.lenient)

    def router(self) -> APIRouter:
        """Both routes, with their bodies and answers documented."""
        routes = APIRouter(prefix="/api")
        chat: dict[str, Any] = inference_docs(ChatRequest, JSON_LINES)
        generate: dict[str, Any] = inference_docs(GenerateRequest, JSON_LINES)
        routes.add_api_route("/chat", self.chat, methods=["POST"], response_model=None, **chat)
        routes.add_api_route(
            "/generate", self.generate, methods=["POST"], response_model=None, **generate
        )
        return routes

    async def chat(self, request: Request) -> Response:
        """Answer a conversation."""
        return await self._answer(request, self._chat, chat_shape)

    async def generate(self, request: Request) -> Response:
        """Answer a prompt, or continue it."""
        return await self._answer(request, self._generate, generate_shape)

    async def _answer(self, request: Request, reader: BodyReader[Call], shape: Shape) -> Response:
        body = await self._calls.body(request)
        if len(body) <= _PEEK_BYTES and _asks_nothing(body):
            read = await self._calls.parse(reader, body)
            return await self._only_load(request, read, shape)
        ticket, read = await self._calls.admit_body(request, body, reader, head)
        call = read.call
        if call.request is None:
            ticket.give_back()
            return await self._only_load(request, read, shape)
        keep(ticket.runtime, call.keep_s)
        answering = self._calls.serving.run(ticket, with_session(call.request, request.headers))
        clock = self._calls.clock
        rendering = OllamaRendering(call.name, shape, clock, lambda: answering.timing)
        fitting = _Fitting(answering, ticket.runtime, call)
        exchange = self._calls.exchanged(fitting, rendering)
        return exchange.response(stream=call.stream, headers=ignored_header(read))

    async def _only_load(self, request: Request, read: Read[Call], shape: Shape) -> Response:
        """Load the model, or unload it; one object either way, streamed or not."""
        call = read.call
        action = UNLOAD if call.unload else LOAD
        async with audited(request, Scope.ADMIN, action, call.name):
            model = model_of(call.name)
            self._calls.serving.access.check(principal_of(request), model)
            if call.unload:
                await self._unload(model)
            else:
                self._calls.serving.refuse_draining()
                runtime = await self._engine.load(model)
                keep(runtime, call.keep_s)
                _check_window(runtime, call.window or 0)
        now = self._calls.clock.now_ms()
        answer = nothing_said(call.name, shape, now, "unload" if call.unload else "load")
        return Response(answer, headers=ignored_header(read), media_type="application/json")

    async def _unload(self, model: str) -> None:
        try:
            await self._engine.unload(model)
        except LmxError as error:
            if error.kind is not ErrorKind.MODEL_NOT_FOUND:
                raise
            self._engine.resolver.canonical(model)  # unknown models are an error, idle ones not


class _Fitting:
    """A call that is refused where the model is less than its client counts on."""

    def __init__(self, answering: Answering, runtime: ModelRuntime, call: Call) -> None:
        self._answering = answering
        self._runtime = runtime
        self._call = call

    @property
    def usage(self) -> Usage:
        return self._answering.usage

    async def open(self) -> Accepted:
        accepted = await self._answering.open()
        _check_window(self._runtime, self._call.window or 0)
        if self._call.think and not accepted.speech.reasoning:
            # Ollama's words, which clients look for before they ask again without.
            raise unsupported(f'"{self._call.name}" does not support thinking', "think")
        return accepted

    def __aiter__(self) -> AsyncIterator[list[AnswerEvent]]:
        return self._answering

    def close(self) -> None:
        self._answering.close()


def _check_window(runtime: ModelRuntime, wanted: int) -> None:
    if runtime.ready is not None and wanted > runtime.ready.context:
        raise unsupported(
            f"'options.num_ctx' is {wanted}, but this model's window holds "
            f"{runtime.ready.context} tokens.",
            "options.num_ctx",
        )


def _asks_nothing(body: bytes) -> bool:
    """True where there is no turn, prompt or suffix: the model is loaded or unloaded."""
    peek = decode(body, _peek_decoder)
    return all(bytes(part) in _EMPTY for part in (peek.messages, peek.prompt, peek.suffix))
