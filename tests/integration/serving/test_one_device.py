"""Two models on one device: what the one does in the background, the other's bot hardly sees."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import pytest

from tests.support.server import LiveServer, sim_server
from tests.support.waiting import until

KEYS = {
    "keys": [
        {"name": "bot", "key": "key-bot"},
        {"name": "night", "key": "key-night", "lane": "background"},
    ]
}
CACHE = {"prefix_cache_bytes": 100_000_000}
WAYS: dict[str, Any] = {
    "step_ms": 5,
    "prefill_ms_per_token": 1,
    "pauses": True,
    "resumes": "all",
    "caches": "trimmable",
}


def models(device: Path) -> dict[str, dict[str, Any]]:
    """A bot's model, and one for jobs of long prompts, on a device that runs one at a time."""
    ways = {**WAYS, "device": str(device)}
    return {
        "chat": {"reply": "word " * 4, "chunk": 50, **ways},
        "jobs": {"reply": "word " * 8, "chunk": 80, **ways},
    }


async def first_word_s(http: httpx.AsyncClient, who: str, model: str, prompt: str) -> float:
    """Seconds to the first content; the answer is read to its end."""
    began, first = time.monotonic(), 0.0
    headers = {"Authorization": f"Bearer key-{who}"}
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "stream": True}
    sent = http.stream("POST", "/v1/chat/completions", json=body, headers=headers)
    async with sent as reply:
        assert reply.status_code == 200, await reply.aread()
        async for line in reply.aiter_lines():
            if '"content":"' in line and '"content":""' not in line:
                first = first or time.monotonic() - began
    return first


@asynccontextmanager
async def jobs(http: httpx.AsyncClient) -> AsyncIterator[None]:
    """Keep ten long prompts in flight, no two alike."""
    prompts = count()

    async def one() -> None:
        while True:
            await first_word_s(http, "night", "jobs", f"{next(prompts)} " + "x" * 400)

    tasks = [asyncio.ensure_future(one()) for _ in range(10)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def bot(chat: LiveServer, other: LiveServer, times: int) -> tuple[float, list[float], int]:
    """Seconds to a bot's first word alone, each time beside jobs, and steps of those."""
    limits = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(base_url=chat.url, timeout=60, limits=limits) as http,
        httpx.AsyncClient(base_url=other.url, timeout=60, limits=limits) as far,
    ):
        await first_word_s(far, "night", "jobs", "x")
        await first_word_s(http, "bot", "chat", "y")

        def ask(number: int) -> Any:
            return first_word_s(http, "bot", "chat", f"{number} " + "y" * 390)

        solo = median([await ask(number) for number in range(3)])
        async with jobs(far):
            await until(lambda: other.status("jobs")["waiting"] >= 5)
            before = other.status("jobs")["steps"]
            taken = [await ask(number + 10) for number in range(times)]
            return solo, taken, other.status("jobs")["steps"] - before


def test_a_flood_on_another_model_is_hardly_noticed(tmp_path: Path) -> None:
    with sim_server(tmp_path, models(tmp_path / "device"), access=KEYS, engine=CACHE) as server:
        solo, times, steps = asyncio.run(bot(server, server, 4))
    assert median(times) <= max(2 * solo, solo + 0.2), (solo, times)
    assert steps


@pytest.mark.slow
def test_without_a_governor_it_would_be(tmp_path: Path) -> None:
    """Two servers, which know nothing of each other, on the same device."""
    scripts = models(tmp_path / "device")
    with sim_server(tmp_path, scripts, access=KEYS, engine=CACHE) as server:
        solo, times, _ = asyncio.run(bot(server, server, 20))
    governed = sorted(times)[18]
    with ExitStack() as stack:
        folders = [tmp_path / "one", tmp_path / "two"]
        chat, other = (
            stack.enter_context(sim_server(folder, scripts, access=KEYS, engine=CACHE))
            for folder in folders
        )
        alone, times, _ = asyncio.run(bot(chat, other, 8))
    print(
        f"alone {solo:.3f} s, p95 governed {governed:.3f} s, median without {median(times):.3f} s"
    )
    assert governed <= max(2 * solo, solo + 0.2)
    assert median(times) > max(2 * alone, alone + 0.2)
