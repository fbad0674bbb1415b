"""Full is told at once, the same way streamed or not, and nothing hangs."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.server import sim_server

pytestmark = pytest.mark.alone

CLIENTS = 200


class Outcome:
    """What one of many clients saw."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes, seconds: float) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.seconds = seconds


async def _ask(url: str, body: dict[str, Any], start: asyncio.Event) -> Outcome:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    data = json.dumps(body).encode()
    await start.wait()
    began = time.monotonic()
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data) + data
    )
    head = await reader.readuntil(b"\r\n\r\n")
    seconds = time.monotonic() - began
    lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
    body_bytes = await reader.read()
    writer.close()
    return Outcome(int(lines[0].split()[1]), headers, body_bytes, seconds)


async def _storm(url: str) -> list[Outcome]:
    start = asyncio.Event()
    message = [{"role": "user", "content": "hello there"}]
    tasks = [
        asyncio.create_task(
            _ask(url, {"model": "m", "messages": message, "stream": bool(n % 2)}, start)
        )
        for n in range(CLIENTS)
    ]
    await asyncio.sleep(0)
    start.set()
    return await asyncio.wait_for(asyncio.gather(*tasks), 60)


def _p95_of_refusals(metrics: str) -> float:
    """Upper bound of the bucket that holds the 95th percentile of 429 first-byte times."""
    prefix = 'opta_lmx_first_byte_seconds_bucket{code="429",'
    buckets: list[tuple[float, float]] = []
    for line in metrics.splitlines():
        if line.startswith(prefix):
            bound = line.split('le="')[1].split('"')[0]
            buckets.append((float(bound), float(line.split()[-1])))
    buckets.sort()
    total = buckets[-1][1]
    return next(bound for bound, count in buckets if count >= 0.95 * total)


def test_a_storm_gets_answers_or_honest_refusals(tmp_path: Path) -> None:
    scripts = {"m": {"step_ms": 5, "reply": "word " * 10}}
    with sim_server(tmp_path, scripts, slots=4, max_waiting=6) as server:
        httpx.post(f"{server.url}/admin/models/load", json={"model": "m"}, timeout=30)
        outcomes = asyncio.run(_storm(server.url))
        metrics = httpx.get(f"{server.url}/metrics").text
        status = server.status("m")
    statuses = {outcome.status for outcome in outcomes}
    assert statuses == {200, 429}
    for outcome in outcomes:
        if outcome.status == 429:
            retry_after = int(outcome.headers["retry-after"])
            error = json.loads(outcome.body)
            assert 1 <= retry_after <= 60
            assert error["retry_after"] == retry_after
            assert error["error"]["code"] == "queue_full"
        else:
            assert b"word" in outcome.body
    assert sum(outcome.status == 200 for outcome in outcomes) >= 10
    assert _p95_of_refusals(metrics) <= 0.05
    assert (status["running"], status["waiting"]) == (0, 0)
