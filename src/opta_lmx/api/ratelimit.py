"""What is left of quotas, in the headers of every answer to a caller that has some."""

import math
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Protocol, cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from opta_lmx.core.clock import Clock
from opta_lmx.tenancy.windows import Level, Resource

ACCOUNT = "opta_lmx.account"
"""Where a call leaves, in its connection's scope, what tells of its caller's quotas."""
_ANTHROPIC = "/v1/messages"

Headers = Iterator[tuple[str, str]]


class Told(Protocol):
    """What a call leaves: `serving.budgeting.Account`."""

    @property
    def levels(self) -> Sequence[Level]:
        """Quotas as they stood last; none for callers without."""
        ...


class RateLimitHeaders:
    """Plain ASGI middleware: adds the headers when an answer begins.

    Args:
        app: what answers.
        clock: time.
    """

    def __init__(self, app: ASGIApp, clock: Clock) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                account = cast("Told | None", scope.get(ACCOUNT))
                levels = () if account is None else account.levels
                if levels:
                    message = self._told(message, scope["path"], levels)
            await send(message)

        await self._app(scope, receive, watched)

    def _told(self, message: Message, path: str, levels: Sequence[Level]) -> Message:
        if path.startswith(_ANTHROPIC):
            told = anthropic(levels, self._clock.now_ms())
        else:
            told = openai(levels)
        added = [(name.encode(), value.encode()) for name, value in told]
        return {**message, "headers": [*message.get("headers", []), *added]}


def openai(levels: Sequence[Level]) -> Headers:
    """The tightest window of requests, and of tokens, prompts and answers alike."""
    return _headers(
        levels,
        (
            ("requests", ("requests",)),
            ("tokens", ("prompt_tokens", "output_tokens")),
        ),
        lambda kind, what: f"x-ratelimit-{what}-{kind}",
        lambda level: span(level.reset_ms),
    )


def anthropic(levels: Sequence[Level], now_ms: int) -> Headers:
    """The tightest windows of requests, of prompts' tokens and of answers'."""
    return _headers(
        levels,
        (
            ("requests", ("requests",)),
            ("input-tokens", ("prompt_tokens",)),
            ("output-tokens", ("output_tokens",)),
        ),
        lambda kind, what: f"anthropic-ratelimit-{kind}-{what}",
        lambda level: moment(now_ms + level.reset_ms),
    )


def _headers(
    levels: Sequence[Level],
    kinds: Sequence[tuple[str, tuple[Resource, ...]]],
    name: Callable[[str, str], str],
    reset: Callable[[Level], str],
) -> Headers:
    for kind, resources in kinds:
        level = tightest([one for one in levels if one.limit.resource in resources])
        if level is not None:
            yield name(kind, "limit"), str(level.limit.most)
            yield name(kind, "remaining"), str(level.remaining)
            yield name(kind, "reset"), reset(level)


def tightest(levels: Sequence[Level]) -> Level | None:
    """The level with the least left; of equal ones that which is free again last."""
    return min(levels, key=lambda one: (one.remaining, -one.reset_ms), default=None)


def span(ms: int) -> str:
    """A span as OpenAI writes it: `20ms`, `1s`, `6m0s`, `23h59m58s`; never too short."""
    if ms < 1000:
        return f"{ms}ms"
    seconds = math.ceil(ms / 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}s"
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


def moment(at_ms: int) -> str:
    """A moment as Anthropic writes it (RFC 3339, UTC), to the next whole second."""
    at = datetime.fromtimestamp(math.ceil(at_ms / 1000), UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
