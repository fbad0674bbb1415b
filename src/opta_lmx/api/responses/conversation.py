"""What a request refers to: the turns before it, and items it names instead of sending."""

from collections.abc import Mapping
from typing import Any

import msgspec

from opta_lmx.api.calls import with_session
from opta_lmx.api.responses.items import REFERENCE
from opta_lmx.api.responses.making import Wanted
from opta_lmx.api.responses.parse import Draft
from opta_lmx.api.responses.turns import to_messages
from opta_lmx.core.errors import ErrorKind, LmxError, invalid
from opta_lmx.serving.responses import StoredResponses
from opta_lmx.serving.service import Ticket

Json = dict[str, Any]
MAX_REFERENCES = 1000
"""Items one request may name instead of sending."""


class Conversation(msgspec.Struct, frozen=True):
    """What one connection knows of a conversation; `stored`: its last response is kept, too."""

    items: list[Json]
    stored: bool


Remembered = Mapping[str, Conversation]
"""Conversations of one connection by the id of their last response."""
_Own = tuple[StoredResponses, str]
"""Where responses are kept, and the tenant whose are meant."""


async def complete(
    draft: Draft,
    ticket: Ticket,
    headers: Mapping[str, str],
    store: StoredResponses,
    remembered: Remembered | None = None,
) -> Wanted:
    """Find everything a request refers to; its place in line is given back if that fails.

    Args:
        draft: the request.
        ticket: its place in the model's line.
        headers: those of HTTP, which may name the session.
        store: where responses are kept.
        remembered: looked in first.

    Raises:
        LmxError: INVALID_REQUEST `previous_response_not_found`, NOT_FOUND `item_not_found`,
            UNAVAILABLE `store_unavailable` where the store is needed and cannot be used.
    """
    try:
        if draft.stores:
            store.check()
        own = (store, ticket.caller.principal.tenant)
        history = await _history(draft.body.previous_response_id, own, remembered or {})
        items = await _resolved(draft.items, history, own)
        messages = to_messages(draft.body.instructions, [*history, *items])
        request = with_session(draft.with_messages(messages), headers)
    except BaseException:  # whatever it is, the place in the line must not be lost
        ticket.give_back()
        raise
    return Wanted(draft, history, items, request)


async def _history(previous: str | None, own: _Own, remembered: Remembered) -> list[Json]:
    store, tenant = own
    if previous is None:
        return []
    known = remembered.get(previous)
    if known is None:
        return await store.history(previous, tenant)
    if known.stored:
        await store.check_previous(previous, tenant)
    return known.items


async def _resolved(items: list[Json], history: list[Json], own: _Own) -> list[Json]:
    """The items with what they refer to in place of the references."""
    wanted = {item["id"] for item in items if item["type"] == REFERENCE}
    if not wanted:
        return items
    found = {item["id"]: item for item in history if item["id"] in wanted}
    missing = wanted - found.keys()
    if len(missing) > MAX_REFERENCES:
        raise invalid(f"'input' must refer to at most {MAX_REFERENCES} items.", param="input")
    if missing:
        store, tenant = own
        found |= await store.items(sorted(missing), tenant)
    resolved: list[Json] = []
    for item in items:
        if item["type"] == REFERENCE:
            if item["id"] not in found:
                raise _no_item(item)
            item = found[item["id"]]  # noqa: PLW2901 - the reference is what it refers to
        resolved.append(item)
    return resolved


def _no_item(reference: Json) -> LmxError:
    return LmxError(
        ErrorKind.NOT_FOUND,
        f"Item with id '{reference['id'][:128]}' not found.",
        code="item_not_found",
        param=f"{reference['at']}.id",
    )
