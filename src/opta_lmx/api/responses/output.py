"""Items of an answer while they are made: what begins, continues and ends each, as events."""

from collections.abc import Sequence
from typing import Any, Protocol

from opta_lmx.api.responses import sealed
from opta_lmx.api.tokens import token_logprobs
from opta_lmx.core.ids import random_id
from opta_lmx.core.types import TokenEvent

Json = dict[str, Any]


class OpenItem(Protocol):
    """One item that is being made; its events lack sequence number and output index."""

    def begin(self) -> list[Json]:
        """What announces it."""
        ...

    def more(self, text: str, tokens: Sequence[TokenEvent]) -> Json:
        """More of it; an empty text says nothing."""
        ...

    def end(self, status: str) -> list[Json]:
        """What closes it."""
        ...

    def item(self, status: str) -> Json:
        """The item as far as it goes."""
        ...


class MessageItem:
    """The answer's text."""

    def __init__(self) -> None:
        self._id = random_id("msg_")
        self._texts: list[str] = []
        self._logprobs: list[Json] = []

    def begin(self) -> list[Json]:
        """Announce the message and its one part."""
        empty: Json = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        return [
            _added(self._item("in_progress", [])),
            self._event("response.content_part.added", part=empty),
        ]

    def more(self, text: str, tokens: Sequence[TokenEvent]) -> Json:
        """More text, with the log-probabilities of its tokens."""
        entries = token_logprobs(tokens)
        self._texts.append(text)
        self._logprobs += entries
        return self._event("response.output_text.delta", delta=text, logprobs=entries)

    def end(self, status: str) -> list[Json]:
        """Close the part, then the message."""
        part = self._part()
        whole = {"text": part["text"], "logprobs": part["logprobs"]}
        return [
            self._event("response.output_text.done", **whole),
            self._event("response.content_part.done", part=part),
            _done(self.item(status)),
        ]

    def item(self, status: str) -> Json:
        """The message as far as it goes."""
        return self._item(status, [self._part()])

    def _part(self) -> Json:
        return {
            "type": "output_text",
            "text": "".join(self._texts),
            "annotations": [],
            "logprobs": [*self._logprobs],
        }

    def _item(self, status: str, content: list[Json]) -> Json:
        return {
            "type": "message",
            "id": self._id,
            "status": status,
            "role": "assistant",
            "content": content,
        }

    def _event(self, kind: str, **fields: Any) -> Json:
        return {"type": kind, "item_id": self._id, "content_index": 0, **fields}


class ReasoningItem:
    """The model's thinking, told word for word as the item's summary.

    The published event schemas of OpenAI and of Open Responses name the deltas of reasoning
    content differently and share those of its summary: the only way every client can read.

    Args:
        encrypted: add a sealed copy that a client who stores nothing can send back.
    """

    def __init__(self, *, encrypted: bool) -> None:
        self._id = random_id("rs_")
        self._encrypted = encrypted
        self._texts: list[str] = []

    def begin(self) -> list[Json]:
        """Announce the item and its one part."""
        return [
            _added({"type": "reasoning", "id": self._id, "summary": []}),
            self._event("response.reasoning_summary_part.added", part=_summary("")),
        ]

    def more(self, text: str, tokens: Sequence[TokenEvent]) -> Json:
        """More thinking."""
        del tokens
        self._texts.append(text)
        return self._event("response.reasoning_summary_text.delta", delta=text)

    def end(self, status: str) -> list[Json]:
        """Close the part, then the item."""
        text = "".join(self._texts)
        return [
            self._event("response.reasoning_summary_text.done", text=text),
            self._event("response.reasoning_summary_part.done", part=_summary(text)),
            _done(self.item(status)),
        ]

    def item(self, status: str) -> Json:
        """The item as far as it goes; it has no status of its own."""
        del status
        text = "".join(self._texts)
        made: Json = {"type": "reasoning", "id": self._id, "summary": [_summary(text)]}
        if self._encrypted:
            made["encrypted_content"] = sealed.seal(sealed.Thinking(text))
        return made

    def _event(self, kind: str, **fields: Any) -> Json:
        return {"type": kind, "item_id": self._id, "summary_index": 0, **fields}


class CallItem:
    """A call of a function.

    Args:
        call_id: by which its result comes back.
        name: of the function.
    """

    def __init__(self, call_id: str, name: str) -> None:
        self._id = random_id("fc_")
        self._call_id = call_id
        self._name = name
        self._arguments: list[str] = []

    def begin(self) -> list[Json]:
        """Announce the call."""
        return [_added(self.item("in_progress"))]

    def more(self, text: str, tokens: Sequence[TokenEvent]) -> Json:
        """More of the arguments' JSON text."""
        del tokens
        self._arguments.append(text)
        return self._event("response.function_call_arguments.delta", delta=text)

    def end(self, status: str) -> list[Json]:
        """Close the arguments, then the call."""
        item = self.item(status)
        return [
            self._event("response.function_call_arguments.done", arguments=item["arguments"]),
            _done(item),
        ]

    def item(self, status: str) -> Json:
        """The call as far as it goes."""
        return {
            "type": "function_call",
            "id": self._id,
            "call_id": self._call_id,
            "name": self._name,
            "arguments": "".join(self._arguments),
            "status": status,
        }

    def _event(self, kind: str, **fields: Any) -> Json:
        return {"type": kind, "item_id": self._id, **fields}


def _added(item: Json) -> Json:
    return {"type": "response.output_item.added", "item": item}


def _done(item: Json) -> Json:
    return {"type": "response.output_item.done", "item": item}


def _summary(text: str) -> Json:
    return {"type": "summary_text", "text": text}
