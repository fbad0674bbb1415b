"""The events of one response, in order and numbered, and the response they add up to."""

from collections.abc import Iterable
from typing import Any

from opta_lmx.api import sse
from opta_lmx.api.responses.output import CallItem, MessageItem, OpenItem, ReasoningItem
from opta_lmx.codec.deltas import CallArguments, CallStart, FinishKind, ReasoningDelta, TextDelta
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.serving.answering import Spoke

Json = dict[str, Any]

DONE = b"data: [DONE]\n\n"

# The only codes OpenAI's clients know. What may pass by itself is told by the first two.
_CODES: dict[ErrorKind, str] = {
    ErrorKind.RATE_LIMITED: "rate_limit_exceeded",
    ErrorKind.INVALID_REQUEST: "invalid_prompt",
    ErrorKind.UNSUPPORTED_PARAMETER: "invalid_prompt",
    ErrorKind.CONTEXT_LENGTH_EXCEEDED: "invalid_prompt",
    ErrorKind.MODEL_NOT_FOUND: "invalid_prompt",
}


def server_sent(events: Iterable[Json]) -> bytes:
    """Events as they stand in a stream: their type, then their JSON."""
    return b"".join(sse.event(event["type"], sse.encode(event)) for event in events)


class ResponseEvents:
    """Tells one answer; `response` is what is known of it so far.

    A stream is `waiting`? `opened` `spoke`* `ended` `terminal`, or ends anywhere with `failed`;
    `noop` may come between.

    Args:
        response: what `resource.blank` made; changed as the answer grows.
        encrypted: add sealed copies of the thinking.

    Attributes:
        begun: something was told already.
        over: the last event was told.
    """

    def __init__(self, response: Json, *, encrypted: bool = False) -> None:
        self.response = response
        self.begun = False
        self.over = False
        self._encrypted = encrypted
        self._next = 0
        self._open: OpenItem | None = None
        self._output: list[Json] = []

    def waiting(self) -> list[Json]:
        """The response exists, but is not accepted yet (its model loads)."""
        return [self._state("response.created"), self._state("response.queued")]

    def opened(self) -> list[Json]:
        """The call is accepted."""
        self.response["status"] = "in_progress"
        created = [] if self.begun else [self._state("response.created")]
        return [*created, self._state("response.in_progress")]

    def noop(self) -> list[Json]:
        """An event that says nothing new: a client's watchdog counts no comments."""
        if self.over or not self.begun:
            return []
        if self._open is not None:
            return [self._numbered(self._open.more("", ()))]
        waits = self.response["status"] == "queued"
        return [self._state("response.queued" if waits else "response.in_progress")]

    def spoke(self, spoke: Spoke) -> list[Json]:
        """More of the answer."""
        delta = spoke.delta
        match delta:
            case TextDelta():
                events, kept = self._enter(MessageItem)
            case ReasoningDelta():
                events, kept = self._enter(ReasoningItem)
            case CallStart():
                return self._begin(CallItem(delta.id, delta.name))
            case CallArguments():
                events, kept = [], self._open
        assert kept is not None, "arguments follow the start of their call"
        return [*events, self._numbered(kept.more(delta.text, spoke.tokens))]

    def _enter(self, kind: type[MessageItem | ReasoningItem]) -> tuple[list[Json], OpenItem]:
        """The open item, if it is of this kind, else a new one."""
        if isinstance(self._open, kind):
            return [], self._open
        says = kind is MessageItem
        fresh = MessageItem() if says else ReasoningItem(encrypted=self._encrypted)
        return self._begin(fresh), fresh

    def _begin(self, item: OpenItem) -> list[Json]:
        events = self._close("completed")
        self._open = item
        return [*events, *map(self._numbered, item.begin())]

    def _close(self, status: str) -> list[Json]:
        if self._open is None:
            return []
        events = [self._numbered(event) for event in self._open.end(status)]
        self._output.append(self._open.item(status))
        self._open = None
        return events

    def ended(self, finish: FinishKind, usage: Json, now_s: int) -> list[Json]:
        """The answer is complete: close what is open, and know how it ended.

        Args:
            finish: `length` when it was cut.
            usage: exact counts.
            now_s: seconds since the epoch, UTC.
        """
        cut = finish == "length"
        status = "incomplete" if cut else "completed"
        events: list[Json] = []
        if self._open is None and not self._output:
            events += self._begin(MessageItem())
        events += self._close(status)
        self.response |= {
            "status": status,
            "output": [*self._output],
            "usage": usage,
            "completed_at": None if cut else now_s,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        }
        return events

    def terminal(self) -> list[Json]:
        """The last event: the whole response. To be told once it is kept."""
        event = self._state(f"response.{self.response['status']}")
        self.over = True
        return [event]

    def failed(self, error: LmxError) -> list[Json]:
        """The answer ends here; what there is of it stays in the output, marked incomplete."""
        self.fail(error)
        return self.terminal()

    def fail(self, error: LmxError) -> None:
        """Mark the response as failed."""
        told = {"code": _CODES.get(error.kind, "server_error"), "message": error.message}
        self._abandon("failed")
        self.response["error"] = told

    def cancel(self) -> None:
        """Mark the response as cancelled."""
        self._abandon("cancelled")

    def _abandon(self, status: str) -> None:
        partial = [] if self._open is None else [self._open.item("incomplete")]
        self.response |= {
            "status": status,
            "output": [*self._output, *partial],
            "incomplete_details": None,
            "completed_at": None,
        }

    def _state(self, kind: str) -> Json:
        self.begun = True
        return self._numbered({"type": kind, "response": {**self.response}})

    def _numbered(self, event: Json) -> Json:
        """With its place in the stream, and of its item in the output."""
        kind = event.pop("type")
        place = {} if "response" in event else {"output_index": len(self._output)}
        number = self._next
        self._next += 1
        return {"type": kind, "sequence_number": number, **place, **event}
