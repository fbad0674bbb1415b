"""How each surface is asked, and how it tells of a failure: one adapter for each; and by whom."""

import json
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

Json = dict[str, Any]


class Told(NamedTuple):
    """A failure as its client reads it."""

    kind: str
    message: str


class Surface(NamedTuple):
    """One route that runs a model.

    Attributes:
        path: of the route.
        body: the request without model and `stream`, from a prompt text.
        error: reads a plain error reply.
        stream_error: reads the error that ended a stream, or None; None for plain routes.
        retried: what a failure that may pass must say inside a stream.
        overflow: words of a context overflow that clients match on; empty where none can be.
        kind: of the model; its sim models have this name before theirs.
        unavailable: status of a model that is out of service or loading.
        generates: False where no step of a model is run: then none can crash.
    """

    path: str
    body: Callable[[str], Json]
    error: Callable[[Json], Told]
    stream_error: Callable[[str], Told | None] | None = None
    retried: Callable[[Told], bool] = lambda _: False
    overflow: str = "maximum context length is"
    kind: Literal["chat", "embedding", "rerank"] = "chat"
    unavailable: int = 503
    generates: bool = True

    def request(self, model: str, text: str, *, stream: bool) -> Json:
        """A whole request to one of the sim models."""
        body: Json = {"model": f"{self.kind}-{model}", **self.body(text)}
        return {**body, "stream": stream} if self.stream_error else body


# --- what is asked


def _messages(text: str) -> Json:
    return {"messages": [{"role": "user", "content": text}]}


def _prompt(text: str) -> Json:
    return {"prompt": text}


def _input(text: str) -> Json:
    return {"input": text}


def _documents(text: str) -> Json:
    return {"query": "q", "documents": [text]}


# --- what is told


def openai_error(body: Json) -> Told:
    return Told(body["error"]["type"], body["error"]["message"])


def ollama_error(body: Json) -> Told:
    return Told(str(body.get("status", "")), body["error"])


def cohere_error(body: Json) -> Told:
    return Told(body["error"]["type"], body["message"])


def events(text: str) -> list[Json]:
    """The data of a stream's events."""
    lines = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def openai_stream_error(text: str) -> Told | None:
    found = [event for event in events(text) if "error" in event]
    return openai_error(found[-1]) if found else None


def responses_stream_error(text: str) -> Told | None:
    found = [event for event in events(text) if event["type"] == "response.failed"]
    if not found:
        return None
    error = found[-1]["response"]["error"]
    return Told(error["code"], error["message"])


def ollama_stream_error(text: str) -> Told | None:
    last = json.loads(text.rstrip("\n").rpartition("\n")[2])
    return ollama_error(last) if "error" in last else None


def _by_type(told: Told) -> bool:
    return told.kind in {"server_error", "overloaded_error"}


def _by_code(told: Told) -> bool:
    return told.kind in {"server_error", "rate_limit_exceeded"}


def _by_words(told: Told) -> bool:
    return told.message.startswith(("Overloaded", "Internal server error"))


def _by_status(told: Told) -> bool:
    return told.kind in {"429", "500", "503"}


# --- who is asked

_LONG = "word " * 4000
CHAT_SCRIPTS: dict[str, Json] = {
    "ok": {},
    "small": {"context": 64},
    "held": {"reply": _LONG, "step_ms": 5},
    "dies-first": {"die_at_step": 1},
    "dies-later": {"reply": _LONG, "die_at_step": 12, "step_ms": 2},
    "cold": {"load_ms": 8000},
}
"""The sim models of a failure each."""

# --- the table

SURFACES = (
    Surface("/v1/chat/completions", _messages, openai_error, openai_stream_error, _by_type),
    Surface("/v1/completions", _prompt, openai_error, openai_stream_error, _by_type),
    Surface("/v1/responses", _input, openai_error, responses_stream_error, _by_code),
    Surface(
        "/v1/messages",
        lambda text: {**_messages(text), "max_tokens": 4096},
        openai_error,
        openai_stream_error,
        _by_words,
        overflow="prompt is too long",
        unavailable=529,
    ),
    Surface("/api/chat", _messages, ollama_error, ollama_stream_error, _by_status),
    Surface("/api/generate", _prompt, ollama_error, ollama_stream_error, _by_status),
    Surface("/v1/responses/compact", _input, openai_error),
    Surface("/v1/responses/input_tokens", _input, openai_error, generates=False),
    Surface(
        "/v1/messages/count_tokens",
        _messages,
        openai_error,
        overflow="",
        unavailable=529,
        generates=False,
    ),
    Surface("/v1/embeddings", _input, openai_error, kind="embedding"),
    Surface(
        "/api/embed",
        lambda text: {"input": text, "truncate": False},
        ollama_error,
        kind="embedding",
    ),
    # Its client cannot say that nothing may be cut, so nothing ever overflows.
    Surface("/api/embeddings", _prompt, ollama_error, overflow="", kind="embedding"),
    Surface("/v1/rerank", _documents, cohere_error, kind="rerank"),
    Surface("/v2/rerank", _documents, cohere_error, kind="rerank"),
)
