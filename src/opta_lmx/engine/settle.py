"""Awaiting what must not be left half done."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")


async def settle(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Await `work` to its end, whatever happens to the caller meanwhile.

    A cancellation of the caller, or several, is raised after `work` has ended, not before.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # looked at, so that nobody complains of a fault that was not
    raise cancelled
