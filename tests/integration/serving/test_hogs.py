"""A caller with many requests in flight holds up nobody else, whatever it calls itself."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.server import LiveServer, sim_server
from tests.support.waiting import until

pytestmark = pytest.mark.alone

SLOTS = 4
IN_FLIGHT = 24
VICTIMS = 10
STEP_MS = 5
PAUSING = {"pauses": True, "resumes": "all"}
KEYS = {
    "keys": [
        {"name": "one", "key": "key-one"},
        {"name": "two", "key": "key-two"},
        {"name": "night", "key": "key-night", "lane": "background"},
    ]
}


class Caller:
    """Asks one model in the name of one key."""

    def __init__(self, http: httpx.AsyncClient, key: str, model: str = "m") -> None:
        self._http = http
        self._key = key
        self._model = model

    async def ask(self, client: str, max_tokens: int) -> tuple[float, list[str]]:
        """Seconds to the first content, and all of it."""
        began = time.monotonic()
        first, words = 0.0, list[str]()
        headers = {"Authorization": f"Bearer {self._key}", "X-Client-ID": client}
        message = {"role": "user", "content": "Tell me of it."}
        body = {"model": self._model, "messages": [message], "max_tokens": max_tokens}
        sent = self._http.stream(
            "POST", "/v1/chat/completions", json={**body, "stream": True}, headers=headers
        )
        async with sent as reply:
            assert reply.status_code == 200, await reply.aread()
            async for line in reply.aiter_lines():
                if '"content":"' in line and '"content":""' not in line:
                    first = first or time.monotonic() - began
                    words.append(line)
        return first, words


@asynccontextmanager
async def hogging(caller: Caller, *, rotating: bool) -> AsyncIterator[list[int]]:
    """Keep many requests in flight; yields how long the answers were, as they end."""
    ended: list[int] = []
    stop = asyncio.Event()

    async def one(number: int) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            name = f"c{number}-{turn}" if rotating else "hog"
            ended.append(len((await caller.ask(name, 96))[1]))

    tasks = [asyncio.ensure_future(one(number)) for number in range(IN_FLIGHT)]
    yield ended
    stop.set()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def victims(
    server: LiveServer, hog: str, victim: str, *, rotating: bool, count: int = VICTIMS
) -> tuple[float, list[float]]:
    """Seconds to the first content alone, and each time beside a hog."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as http:
        own, other = Caller(http, f"key-{victim}"), Caller(http, f"key-{hog}")
        await own.ask("victim", 4)
        solo = statistics.median([(await own.ask("victim", 4))[0] for _ in range(5)])
        async with hogging(other, rotating=rotating) as ended:
            await until(lambda: server.status("m")["waiting"] >= IN_FLIGHT - SLOTS)
            times = [(await own.ask("victim", 4))[0] for _ in range(count)]
            await until(lambda: len(ended) >= SLOTS, 30)
        assert set(ended) == {96}
    return solo, times


@pytest.mark.parametrize("ways", [PAUSING, {}], ids=["pausing", "reserving"])
@pytest.mark.parametrize(
    ("hog", "rotating"),
    [("one", False), ("two", False), ("two", True)],
    ids=["own key", "other key", "other key, many names"],
)
def test_a_hog_holds_up_nobody(
    tmp_path: Path, ways: dict[str, Any], hog: str, rotating: bool
) -> None:
    scripts = {"m": {"reply": "word " * 200, "step_ms": STEP_MS, **ways}}
    with sim_server(tmp_path, scripts, slots=SLOTS, access=KEYS) as server:
        solo, times = asyncio.run(victims(server, hog, "one", rotating=rotating))
    assert statistics.median(times) <= max(2 * solo, solo + 0.2)


@pytest.mark.parametrize("ways", [PAUSING, {}], ids=["pausing", "reserving"])
def test_a_flood_in_the_background_is_not_noticed(tmp_path: Path, ways: dict[str, Any]) -> None:
    scripts = {"m": {"reply": "word " * 200, "step_ms": STEP_MS, **ways}}
    with sim_server(tmp_path, scripts, slots=SLOTS, access=KEYS) as server:
        solo, times = asyncio.run(victims(server, "night", "one", rotating=True, count=20))
    p95 = sorted(times)[18]
    assert p95 <= max(2 * solo, solo + 0.2)


def test_many_names_under_one_key_get_no_more_than_one_name_under_another(tmp_path: Path) -> None:
    """Both keys want all there is; the one with many names gets half."""

    async def shares(server: LiveServer) -> tuple[int, int]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as http:
            await Caller(http, "key-one").ask("x", 1)
            many = hogging(Caller(http, "key-two"), rotating=True)
            plain = hogging(Caller(http, "key-one"), rotating=False)
            async with many as many_ended, plain as plain_ended:
                await until(lambda: len(many_ended) + len(plain_ended) >= 60, 60)
                return len(many_ended), len(plain_ended)

    scripts = {"m": {"reply": "word " * 200, "step_ms": 2, **PAUSING}}
    with sim_server(tmp_path, scripts, slots=SLOTS, access=KEYS) as server:
        many, plain = asyncio.run(shares(server))
    assert abs(many - plain) <= 8
