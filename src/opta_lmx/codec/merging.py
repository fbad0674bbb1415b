"""Joins adjacent turns of one role, because many chat templates demand alternating roles."""

from collections.abc import Iterable

from opta_lmx.core.types import Message

SEPARATOR = "\n\n"
"""What stands between the texts of merged turns: a blank line."""


def merge_adjacent(messages: Iterable[Message]) -> tuple[Message, ...]:
    """Return `messages` with adjacent mergeable turns joined by a blank line.

    System, user and assistant turns merge with their own kind when they carry the same
    `name`; tool results never do. An assistant turn that already calls tools takes further
    calls but no further text: a template writes text before calls, so the order would change.
    Empty texts add nothing, so an empty user turn vanishes beside another one.
    """
    merged: list[Message] = []
    run: list[Message] = []
    calling = False
    for message in messages:
        if run and not _joins(run[-1], message, calling):
            merged.append(_joined(run))
            run, calling = [], False
        run.append(message)
        calling = calling or bool(message.tool_calls)
    if run:
        merged.append(_joined(run))
    return tuple(merged)


def _joins(last: Message, message: Message, calling: bool) -> bool:
    if message.role == "tool" or message.role != last.role or message.name != last.name:
        return False
    return not (calling and message.content)


def _joined(run: list[Message]) -> Message:
    if len(run) == 1:
        return run[0]
    first = run[0]
    spoken = [message for message in run if message.content]
    anchors: list[int] = []
    start = 0
    for message in spoken:
        anchors += [start + anchor for anchor in message.anchors]
        start += len(message.content) + len(SEPARATOR)
    return Message(
        role=first.role,
        content=SEPARATOR.join(message.content for message in spoken),
        reasoning=SEPARATOR.join(message.reasoning for message in run if message.reasoning),
        tool_calls=tuple(call for message in run for call in message.tool_calls),
        name=first.name,
        retold=bool(spoken) and all(message.retold for message in spoken),
        anchors=tuple(anchors),
    )
