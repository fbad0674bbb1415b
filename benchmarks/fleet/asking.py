"""A request as OpenClaw sees it through: told to wait it waits, and after ten tries gives up."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from benchmarks.fleet.dialects import PATHS, Caller, body_of, headers_of
from benchmarks.fleet.exchange import Request, Try, send
from benchmarks.fleet.script import Ask

TRIES = 10
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0
_FINAL = ("http_400", "http_401", "http_403", "http_404", "http_413", "protocol")


class Server(msgspec.Struct, frozen=True):
    """Where to send: address with its `/v1`, the model's name there, whether it is this server.

    `plain` servers get no fields or headers beyond what they are known to take.
    """

    url: str
    model: str
    plain: bool = False


@dataclass(slots=True)
class Asked:
    """One request with all its tries; `who` and `kind` say for whom it was made."""

    who: str
    kind: str
    key: str
    ask: Ask
    tries: list[Try] = field(default_factory=list)

    @property
    def last(self) -> Try:
        """The try that ended it."""
        return self.tries[-1]

    @property
    def start(self) -> float:
        """When it was first sent."""
        return self.tries[0].sent

    @property
    def served(self) -> bool:
        """True when an answer came to its end."""
        return bool(self.tries) and self.last.error is None

    @property
    def ttft(self) -> float | None:
        """Seconds from the first try to the first content, with all waiting in between."""
        return None if self.last.first is None else self.last.first - self.start


def request_of(ask: Ask, caller: Caller, server: Server) -> Request:
    """Encode a request for a server."""
    return Request(
        server.url.rstrip("/") + PATHS[ask.dialect],
        headers_of(ask, caller),
        msgspec.json.encode(body_of(ask, server.model, plain=server.plain)),
    )


def pause_after(failed: Try, number: int) -> float | None:
    """Seconds to wait before the next try; None when there must be none.

    Args:
        failed: the try that did not succeed.
        number: how many tries there were.
    """
    if number >= TRIES or failed.error in _FINAL:
        return None
    backoff = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (number - 1))
    return backoff if failed.retry_after is None else failed.retry_after


async def see_through(
    asked: Asked,
    caller: Caller,
    server: Server,
    *,
    timeout_s: float,
    until: float = float("inf"),
    on_first: Callable[[], None] | None = None,
) -> None:
    """Try until it is answered or given up; tries are added to `asked`.

    Args:
        asked: what to send.
        caller: for whom.
        server: where to.
        timeout_s: longest silence of the server; beyond, it hangs.
        until: no try begins after this moment of the client's clock.
        on_first: called at the first content of each try.
    """
    request = request_of(asked.ask, caller, server)
    while True:
        asked.tries.append(await send(request, timeout_s, on_first))
        if asked.served:
            return
        pause = pause_after(asked.last, len(asked.tries))
        if pause is None:
            return
        left = until - time.perf_counter()
        await asyncio.sleep(min(pause, max(0.0, left)))
        if pause > left:
            return
