"""Making a conversation short: the model tells what happened, its rules stay word for word."""

from collections.abc import Iterable
from typing import Any

import msgspec

from opta_lmx.api.fields import validated
from opta_lmx.api.responses import sealed, wire
from opta_lmx.api.responses.parse import Draft, aside
from opta_lmx.api.responses.resource import usage_of
from opta_lmx.api.responses.turns import to_messages
from opta_lmx.codec.deltas import TextDelta
from opta_lmx.codec.merging import merge_adjacent
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.ids import random_id
from opta_lmx.core.types import GenerationRequest, Message, Prompt, SamplingParams
from opta_lmx.serving.answering import Answering, Spoke

Json = dict[str, Any]

MAX_SUMMARY_TOKENS = 1024
MIN_SUMMARY_TOKENS = 64
_CHARS_PER_TOKEN = 4
# Asked in the conversation itself, whose prompt is in the cache, and so that small models manage.
_ASK = (
    "Write down, in a few short sentences, every fact, name, number, decision, result of a tool "
    "and open task of our conversation above. Write nothing else."
)


def parse_compact(fields: Json) -> Draft:
    """Read the body of a compaction. Raises as `parse.parse_create`."""
    body = validated(wire.CompactResponse, fields)
    request = GenerationRequest(body.model, Prompt(), cache_key=body.prompt_cache_key or None)
    return aside(body, request)


def summarising(request: GenerationRequest) -> GenerationRequest:
    """The call that summarises the conversation of another; it shares that one's prefix.

    The summary is bounded by about the length of the conversation: a longer one is none.
    """
    messages = request.prompt.messages
    length = sum(len(message.content) for message in messages) // _CHARS_PER_TOKEN
    asked = merge_adjacent([*messages, Message("user", _ASK)])
    return msgspec.structs.replace(
        request,
        prompt=msgspec.structs.replace(request.prompt, messages=asked),
        sampling=SamplingParams(temperature=0.0),
        stop=(),
        max_tokens=max(MIN_SUMMARY_TOKENS, min(MAX_SUMMARY_TOKENS, length)),
    )


def rules_of(items: Iterable[Json]) -> tuple[str, ...]:
    """The system texts of a conversation, word for word.

    `instructions` are none of them: each request brings its own. Nor is an earlier summary,
    which the new one retells.
    """
    turns = to_messages(None, items)
    return tuple(turn.content for turn in turns if turn.role == "system" and not turn.retold)


async def compact(answering: Answering, rules: tuple[str, ...], response_id: str) -> Json:
    """Run the summary and return the compacted response.

    Args:
        answering: the call that `summarising` asked for, not yet opened.
        rules: what stays word for word (`rules_of`).
        response_id: `resp_...`.

    Raises:
        LmxError: what ended the call; UPSTREAM_FAILED when the model wrote nothing.
    """
    await answering.open()
    texts: list[str] = []
    async for events in answering:
        texts += [
            event.delta.text
            for event in events
            if isinstance(event, Spoke) and isinstance(event.delta, TextDelta)
        ]
    summary = "".join(texts).strip()
    if not summary:
        raise LmxError(
            ErrorKind.UPSTREAM_FAILED, "The model wrote no summary.", code="empty_summary"
        )
    item = {
        "type": "compaction",
        "id": random_id("cmp_"),
        "encrypted_content": sealed.seal(sealed.Compacted(rules, summary)),
    }
    return {
        "id": response_id,
        "object": "response.compaction",
        "created_at": answering.created_s,
        "output": [item],
        "usage": usage_of(answering.usage),
    }
