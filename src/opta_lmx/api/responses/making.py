"""One response on its way, whatever transport tells it: opened, generated, kept."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import msgspec

from opta_lmx.api.calls import Calls
from opta_lmx.api.responses import turns, wire
from opta_lmx.api.responses.events import ResponseEvents
from opta_lmx.api.responses.parse import Draft
from opta_lmx.api.responses.resource import accepted_fields, blank, usage_of
from opta_lmx.codec.deltas import CallStart, FinishKind
from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.ids import uuid7
from opta_lmx.core.types import Accepted, GenerationRequest
from opta_lmx.serving.answering import Answering, Ended, Spoke
from opta_lmx.serving.responses import StoredResponses
from opta_lmx.serving.service import Serving, Ticket

Json = dict[str, Any]
Send = Callable[[list[Json]], Awaitable[None]]


_NAMES = {"messages": "input", "response_format": "text.format", "logprobs": "include"}


@contextlib.contextmanager
def own_words() -> Generator[None]:
    """Name in this dialect's words what the rooms below call after chat's fields."""
    try:
        yield
    except LmxError as error:
        error.param = _NAMES.get(error.param or "", error.param)
        raise


class Wanted(msgspec.Struct, frozen=True):
    """A request with all it refers to.

    `history` came before (by `previous_response_id`); `items` are its own, references resolved;
    `request` holds both as messages.
    """

    draft: Draft
    history: list[Json]
    items: list[Json]
    request: GenerationRequest


class Ports(msgspec.Struct, frozen=True):
    """What a response needs of the rest: the models, the store, time, errors without keys."""

    serving: Serving
    store: StoredResponses
    clock: Clock
    masked: Callable[[LmxError], LmxError]


def ports_of(calls: Calls, store: StoredResponses) -> Ports:
    """What a route has of all this."""
    return Ports(calls.serving, store, calls.clock, calls.envelopes.masked)


class Making:
    """Makes one response; `close` it in any case.

    Args:
        wanted: what was asked.
        ticket: its place in the model's line.
        ports: see `Ports`.

    Attributes:
        events: what is told of it.
    """

    def __init__(self, wanted: Wanted, ticket: Ticket, ports: Ports) -> None:
        self.wanted = wanted
        self._ticket = ticket
        self._ports = ports
        self._answering = ports.serving.run(ticket, wanted.request)
        draft = wanted.draft
        response_id = "resp_" + uuid7(ports.clock.now_ms())
        self.events = ResponseEvents(
            blank(draft, response_id, self._answering.created_s, self._answering.limited),
            encrypted=wire.ENCRYPTED in (draft.body.include or ()),
        )

    @property
    def response(self) -> Json:
        """The response as far as it is known."""
        return self.events.response

    def close(self) -> None:
        """Free what it holds of the model, however it ended. Idempotent."""
        self._answering.close()

    async def whole(self, heard: Send | None = None) -> Json:
        """Make the response; it is kept when this returns. Raises what ended it instead.

        Args:
            heard: told of its events all the same.
        """
        await self._make(heard or _unheard, None)
        return self.response

    async def tell(self, send: Send, patience_s: float) -> None:
        """Make the response, telling its events as they come.

        What fails before the first event is raised; after it, it is the last event.

        Args:
            send: takes events, in order.
            patience_s: the first event is told after this time even if the call still waits to
                be accepted.
        """
        try:
            await self._make(send, patience_s)
        except LmxError as error:
            if not self.events.begun:
                raise
            events = self.events.failed(self._ports.masked(error))
            await self._keep_failure()
            await send(events)

    async def _make(self, send: Send, patience_s: float | None) -> None:
        await self._open(send, patience_s)
        events = self.events
        await send(events.opened())
        finish = await self._generate(send)
        usage = usage_of(self._answering.usage)
        self.close()  # The slot must not wait for the store, nor for a client that reads slowly.
        await send(events.ended(finish, usage, self._ports.clock.now_ms() // 1000))
        await self.keep()
        await send(events.terminal())

    def fail(self, error: LmxError) -> None:
        """Mark the response as failed."""
        self.events.fail(self._ports.masked(error))

    async def keep(self) -> None:
        """Store the response as it is, if it is to be stored; a running one takes its place."""
        draft = self.wanted.draft
        if draft.body.background and self.response["status"] != "queued":
            await self._ports.store.replace(self.response)
        elif draft.stores:
            tenant = self._ticket.caller.principal.tenant
            await self._ports.store.save(self.response, self.wanted.items, tenant)

    async def _keep_failure(self) -> None:
        try:
            await self.keep()
        except LmxError:
            # The client learns of the first failure; a second in its wake helps nobody.
            return

    async def _open(self, send: Send, patience_s: float | None) -> None:
        opening = asyncio.ensure_future(self._accept())
        try:
            await asyncio.wait({opening}, timeout=patience_s)
            if not opening.done():
                await send(self.events.waiting())
            with own_words():
                self.response.update(accepted_fields(await opening))
        finally:
            opening.cancel()

    async def _accept(self) -> Accepted:
        """Pass the second gate, giving up what was not insisted on where the model lacks it."""
        try:
            return await self._answering.open()
        except LmxError as error:
            if self._is_too_strict(error):
                return await self._loosen()
            if self._may_shorten(error):
                return await self._shorten(error)
            raise

    def _may_shorten(self, error: LmxError) -> bool:
        auto = self.wanted.draft.body.truncation == "auto"
        return auto and error.kind is ErrorKind.CONTEXT_LENGTH_EXCEEDED

    def _is_too_strict(self, error: LmxError) -> bool:
        """The engine cannot hold arguments to a schema, and nobody said that it must."""
        said = [tool.strict for tool in self.wanted.draft.body.tools or ()]
        held = any(tool.strict for tool in self.wanted.request.prompt.tools)
        refused = error.kind is ErrorKind.UNSUPPORTED_PARAMETER and error.param == "tools"
        return refused and held and True not in said

    async def _loosen(self) -> Accepted:
        """Call again with the tools as hints, and say so in the response."""
        replace = msgspec.structs.replace
        request = self.wanted.request
        tools = tuple(replace(tool, strict=False) for tool in request.prompt.tools)
        request = replace(request, prompt=replace(request.prompt, tools=tools))
        self.wanted = replace(self.wanted, request=request)
        self.response["tools"] = [{**tool, "strict": False} for tool in self.response["tools"]]
        # The same place in line: an attempt that was not opened holds nothing.
        self._answering = self._ports.serving.run(self._ticket, request)
        return await self._accept()

    async def _shorten(self, error: LmxError) -> Accepted:
        """Drop the fewest oldest turns that leave a prompt which fits, and open that."""
        request = self.wanted.request
        messages = request.prompt.messages
        low, high = 1, turns.droppable(messages)
        best: tuple[Answering, Accepted] | None = None
        while low <= high:
            middle = (low + high) // 2
            prompt = msgspec.structs.replace(
                request.prompt, messages=turns.without_oldest(messages, middle)
            )
            shorter = msgspec.structs.replace(request, prompt=prompt)
            attempt = self._ports.serving.run(self._ticket, shorter)
            try:
                accepted = await attempt.open()
            except LmxError as again:
                if again.kind is not ErrorKind.CONTEXT_LENGTH_EXCEEDED:
                    raise
                error, low = again, middle + 1
            else:
                best, high = (attempt, accepted), middle - 1
        if best is None:
            raise error
        self._answering, accepted = best
        return accepted

    async def _generate(self, send: Send) -> FinishKind:
        """Tell the answer until it ends, or has made all the calls it may."""
        most = self.wanted.draft.body.max_tool_calls
        async for events in self._answering:
            told: list[Json] = []
            finish: FinishKind | None = None
            for event in events:
                if isinstance(event, Ended):
                    finish = event.finish
                    break
                if most is not None and _is_call(event, most):
                    finish = "tool_calls"
                    break
                told += self.events.spoke(event)
            if told:
                await send(told)
            if finish is not None:
                return finish
        raise LmxError(ErrorKind.INTERNAL, "The answer ended without a reason.")


def _is_call(event: Spoke, number: int) -> bool:
    return isinstance(event.delta, CallStart) and event.delta.index >= number


async def _unheard(_: list[Json]) -> None:
    """Nobody listens while a plain answer is made."""
