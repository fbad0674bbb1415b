"""What happens during a turn, and what must come of it."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from scripts.openclaw.client import Finished
from scripts.openclaw.modes import Dialect
from scripts.openclaw.recorder import Exchange
from scripts.openclaw.server import NARROW, PLAIN, SHORT, WINDOW

_OVERFLOW = re.compile(rb"maximum context length is \d+ tokens|prompt is too long: \d+ tokens")
# What it says when it knows what happened, and is about to make the conversation shorter.
_COMPACTING = "context overflow detected"


@dataclass(frozen=True)
class Case:
    """One course of a turn.

    Attributes:
        name: what it is called in the table.
        model: whom OpenClaw asks.
        max_tokens: longest answer it is told of.
        window: window it is told of instead of the true one.
        calls_tools: the model may call tools of its own accord, so one call may not be enough.
    """

    name: str
    model: str
    max_tokens: int = 48
    window: int | None = None
    calls_tools: bool = False


ANSWERED = Case("plain", PLAIN)
BUSY = Case("429 first", NARROW)
# Long enough that the worker is dead well before the answer would have ended.
KILLED = Case("worker killed", PLAIN, max_tokens=160)
OVERFLOW = Case("overflow", SHORT, window=WINDOW)
CASES = (ANSWERED, BUSY, KILLED, OVERFLOW)


@dataclass(frozen=True)
class Call:
    """One model call as its client saw it; times in seconds of one clock."""

    status: int
    visible: bool
    finished: bool
    retry_after: str | None
    begun: float
    ended: float
    text: bytes


@dataclass(frozen=True)
class Outcome:
    """All that is known of a turn: OpenClaw's end, its calls, how often the worker restarted."""

    finished: Finished
    calls: Sequence[Call]
    restarts: int = 0


def call_of(exchange: Exchange, dialect: Dialect) -> Call:
    """Read one recorded call; a client may go as soon as it has read the answer's last event."""
    ended = exchange.complete or exchange.left
    return Call(
        status=exchange.status,
        visible=bool(dialect.visible.search(exchange.reply)),
        finished=ended and bool(dialect.finished.search(exchange.reply)),
        retry_after=exchange.reply_headers.get("retry-after"),
        begun=exchange.begun,
        ended=exchange.begun if exchange.ended is None else exchange.ended,
        text=bytes(exchange.reply),
    )


def final(finished: Finished) -> str | None:
    """The answer OpenClaw gives, None where it gives none."""
    said = _said(finished)
    return said.get("final") if said.get("status") == "ok" else None


def judge(case: Case, outcome: Outcome) -> list[str]:
    """What is not as it must be; nothing where all is well."""
    if not outcome.calls:
        return [f"no model call was made; {_end(outcome.finished)}"]
    if case is OVERFLOW:
        return _judge_overflow(outcome)
    problems = _judge_answer(outcome)
    first, rest = outcome.calls[0], outcome.calls[1:]
    if case.calls_tools:
        problems += _judge_each(outcome.calls)
    elif rest and case not in (BUSY, KILLED):
        problems.append(f"{len(rest)} more calls than the one needed")
    if case is BUSY:
        problems += _judge_busy(first, rest)
    if case is KILLED:
        problems += _judge_killed(first, outcome.restarts)
    return problems


def _judge_answer(outcome: Outcome) -> list[str]:
    problems: list[str] = []
    if outcome.finished.status != 0 or not final(outcome.finished):
        problems.append(f"the turn was not answered: {_end(outcome.finished)}")
    last = outcome.calls[-1]
    if last.status != 200 or not last.finished:
        problems.append(f"the last call ended with {last.status}: {_tail(last.text)}")
    return problems


def _judge_each(calls: Sequence[Call]) -> list[str]:
    return [
        f"call {number} ended with {call.status}: {_tail(call.text)}"
        for number, call in enumerate(calls, 1)
        if call.status != 200 or not call.finished
    ]


def _judge_busy(first: Call, rest: Sequence[Call]) -> list[str]:
    if first.status != 429:
        return [f"the first call was answered with {first.status}, not 429"]
    if first.retry_after is None or not first.retry_after.isdigit():
        return [f"Retry-After of the 429 is {first.retry_after!r}"]
    waited = rest[0].begun - first.ended if rest else 0.0
    if waited < int(first.retry_after):
        return [f"the retry came after {waited:.1f} s, sooner than Retry-After asks"]
    return []


def _judge_killed(first: Call, restarts: int) -> list[str]:
    problems: list[str] = []
    if first.status != 200 or not first.visible:
        problems.append(f"the first call was not under way: {first.status}")
    if restarts != 1:
        problems.append(f"the worker restarted {restarts} times, not once")
    return problems


def _judge_overflow(outcome: Outcome) -> list[str]:
    problems: list[str] = []
    first, done = outcome.calls[0], outcome.finished
    if first.status != 400 or not _OVERFLOW.search(first.text):
        problems.append(f"the overflow was answered with {first.status}: {_tail(first.text)}")
    if _COMPACTING not in done.err:
        problems.append(f"OpenClaw did not take it for an overflow: {_end(done)}")
    if done.status == 1 and _said(done).get("error", {}).get("kind") != "context_overflow":
        problems.append(f"OpenClaw does not say that it was an overflow: {_end(done)}")
    if done.status not in (0, 1):
        problems.append(_end(done))
    return problems


def _said(finished: Finished) -> dict[str, Any]:
    try:
        said: object = json.loads(finished.out)
    except ValueError:
        return {}
    return cast("dict[str, Any]", said) if isinstance(said, dict) else {}


def _end(finished: Finished) -> str:
    status = "no exit status in time" if finished.status is None else f"exit {finished.status}"
    return f"{status}, {(finished.out + finished.err).strip()[-600:]!r}"


def _tail(text: bytes) -> str:
    return repr(text[-300:].decode("utf-8", "replace"))
