"""Waiting for a condition, bounded by a deadline."""

import asyncio
import threading
import time
from collections.abc import Callable


async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> float:
    """Poll until the condition holds; return the seconds it took. Fails after `timeout_s`."""
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        assert waited < timeout_s, "the condition never came true"
        await asyncio.sleep(0.005)
    return time.monotonic() - began


def wait_until(condition: Callable[[], object], timeout_s: float = 10.0) -> float:
    """As `until`, on a thread that may block."""
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        assert waited < timeout_s, "the condition never came true"
        threading.Event().wait(0.005)
    return time.monotonic() - began
