"""Blocking work that may hang, off the event loop and off the threads that others need."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

_Result = TypeVar("_Result")


async def aside(work: Callable[[], _Result], name: str) -> _Result:
    """Run `work` on a daemon thread of its own and return, or raise, what comes of it.

    A thread that waits in a socket for a silent server keeps no process alive. Whoever stops
    waiting leaves it behind.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_Result] = loop.create_future()

    def settle(result: _Result | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(result)  # pyright: ignore[reportArgumentType]
        else:
            done.set_exception(error)

    def run() -> None:
        result: _Result | None = None
        error: BaseException | None = None
        try:
            result = work()
        except Exception as cause:  # noqa: BLE001  (boundary: whoever waits is told)
            error = cause
        # The loop is closed when the server has gone without waiting for this thread.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await done
