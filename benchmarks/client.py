"""One streamed chat request over a bare asyncio transport, timed as its bytes arrive."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import cast
from urllib.parse import urlsplit

import msgspec

from benchmarks.http1 import HttpError, ResponseParser, SseParser

Clock = Callable[[], float]


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[object] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: object = None


_chunk_decoder = msgspec.json.Decoder(_Chunk)


class Target(msgspec.Struct, frozen=True):
    """An OpenAI endpoint: `url` up to and including its `/v1`, and the model's name there."""

    url: str
    model: str
    key: str | None = None


class Messages(msgspec.Struct, frozen=True):
    """A prompt: one user turn, and a system turn before it unless empty.

    `client` is who this server is told asks (`X-Client-Id`), where it is not empty.
    """

    user: str
    system: str = ""
    client: str = ""


@dataclass(slots=True)
class Record:
    """What one request did. Times are seconds on the client's monotonic clock.

    `stamps` holds the arrival of each delta that carried something; `error` names the failure
    (`http_429`, `connect`, `timeout`, `cut`, `stream_error`, `protocol`), None when there was
    none.
    """

    start: float
    end: float = 0.0
    stamps: list[float] = field(default_factory=list)
    status: int = 0
    error: str | None = None
    detail: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    usage_tokens: int | None = None

    @property
    def tokens(self) -> int:
        """Completion tokens: the server's own count, else one per delta."""
        return len(self.stamps) if self.usage_tokens is None else self.usage_tokens

    @property
    def ttft(self) -> float | None:
        """Seconds from sending to the first delta, None when none came."""
        return self.stamps[0] - self.start if self.stamps else None

    @property
    def gaps(self) -> list[float]:
        """Seconds between neighbouring deltas; 0 for those that came in one packet."""
        return [after - before for before, after in pairwise(self.stamps)]

    @property
    def miscounted(self) -> bool:
        """True when the server counts fewer tokens than it sent deltas, or sent no count."""
        return self.error is None and (
            self.usage_tokens is None or self.usage_tokens < len(self.stamps)
        )


def encode_request(target: Target, messages: Messages, max_tokens: int) -> bytes:
    """The whole HTTP request: greedy, streamed, with usage, on a connection of its own."""
    turns = [{"role": "user", "content": messages.user}]
    if messages.system:
        turns.insert(0, {"role": "system", "content": messages.system})
    body = msgspec.json.encode(
        {
            "model": target.model,
            "messages": turns,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    )
    parts = urlsplit(target.url)
    head = [
        f"POST {parts.path.rstrip('/')}/chat/completions HTTP/1.1",
        f"Host: {parts.netloc}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    if target.key:
        head.append(f"Authorization: Bearer {target.key}")
    if messages.client:
        head.append(f"X-Client-Id: {messages.client}")
    return "\r\n".join([*head, "", ""]).encode() + body


def _address(target: Target) -> tuple[str, int]:
    parts = urlsplit(target.url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"{target.url} is not an http:// address")
    return parts.hostname, parts.port or 80


class _Receiver(asyncio.Protocol):
    """Feeds one response into a Record and resolves `done` when it is over."""

    def __init__(
        self, request: bytes, record: Record, clock: Clock, on_first: Callable[[], None] | None
    ) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._record = record
        self._clock = clock
        self._on_first = on_first
        self._http = ResponseParser()
        self._sse = SseParser()
        self._finished = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio.Transport, so this cannot be checked.
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        now = self._clock()
        try:
            self._take(self._http.feed(data), now)
        except (HttpError, msgspec.DecodeError) as error:
            self._fail("protocol", str(error))
        if self._http.done:
            self._close()

    def connection_lost(self, exc: Exception | None) -> None:
        try:
            self._http.close()
        except HttpError as error:
            self._fail("cut", str(exc or error))
        self._close()

    def _take(self, body: bytes, now: float) -> None:
        head = self._http.head
        if head is None:
            return
        self._record.status = head.status
        if head.status != 200:
            self._fail(f"http_{head.status}", "")
            self._record.detail += body[: 500 - len(self._record.detail)].decode(errors="replace")
            return
        for event in self._sse.feed(body):
            if event == b"[DONE]":
                self._finished = True
            else:
                self._chunk(_chunk_decoder.decode(event), now)

    def _chunk(self, chunk: _Chunk, now: float) -> None:
        record = self._record
        if chunk.error is not None:
            self._fail("stream_error", str(chunk.error))
        if chunk.usage is not None:
            details = chunk.usage.prompt_tokens_details
            record.usage_tokens = chunk.usage.completion_tokens
            record.prompt_tokens = chunk.usage.prompt_tokens
            record.cached_tokens = (details and details.cached_tokens) or 0
        for choice in chunk.choices:
            delta = choice.delta
            if delta and (
                delta.content or delta.reasoning_content or delta.reasoning or delta.tool_calls
            ):
                record.stamps.append(now)
                if self._on_first is not None:
                    self._on_first()
                    self._on_first = None

    def _fail(self, error: str, detail: str) -> None:
        if self._record.error is None:
            self._record.error, self._record.detail = error, detail

    def _close(self) -> None:
        if self.done.done():
            return
        if not self._finished:
            self._fail("cut", "the stream ended without [DONE]")
        self._record.end = self._clock()
        self.done.set_result(None)


async def stream_chat(
    target: Target,
    messages: Messages,
    max_tokens: int,
    *,
    timeout_s: float = 120.0,
    clock: Clock = time.perf_counter,
    on_first: Callable[[], None] | None = None,
) -> Record:
    """Send one request and read its stream to the end. Failures are in the record, never raised.

    `on_first` is called at the first delta. Plain HTTP only: the endpoint is expected nearby.
    """
    request = encode_request(target, messages, max_tokens)
    host, port = _address(target)
    record = Record(start=clock())
    transport: asyncio.BaseTransport | None = None
    try:
        async with asyncio.timeout(timeout_s):
            transport, receiver = await asyncio.get_running_loop().create_connection(
                lambda: _Receiver(request, record, clock, on_first),
                host,
                port,
            )
            await receiver.done
    except TimeoutError:
        record.error = record.error or "timeout"
    except OSError as error:
        record.error, record.detail = record.error or "connect", str(error)
    finally:
        if transport is not None:
            transport.close()
        record.end = record.end or clock()
    return record
