"""Short requests before a run, so that compiled kernels and grown pools are not in its figures."""

import asyncio

from benchmarks.fleet.asking import Asked, Server, see_through
from benchmarks.fleet.dialects import Caller
from benchmarks.fleet.drive import BOT_KEY, JOB
from benchmarks.fleet.script import House, job

_ROUNDS = 2
_PROMPT_TOKENS = 600
_ANSWER_TOKENS = 8


class WarmUpError(Exception):
    """The server did not answer what nobody else was waiting for."""


async def warm_up(
    house: House,
    server: Server,
    width: int,
    key: str = BOT_KEY,
    prompt_tokens: int = _PROMPT_TOKENS,
) -> None:
    """Send a few waves of `width` requests that share nothing with the run's.

    Raises:
        WarmUpError: one was not answered.
    """
    number = 0
    for _ in range(_ROUNDS):
        wave: list[Asked] = []
        for _ in range(width):
            number += 1
            ask = job(house, -number, prompt_tokens, _ANSWER_TOKENS)
            wave.append(Asked(f"warm-{number}", JOB, key, ask))
        caller = Caller(key)
        await asyncio.gather(*(see_through(one, caller, server, timeout_s=120) for one in wave))
        for one in wave:
            if not one.served:
                raise WarmUpError(f"{server.url}: {one.last.error} {one.last.detail}")
