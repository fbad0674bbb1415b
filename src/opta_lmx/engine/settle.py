"""Awaiting what must not be left half done."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")


async def settle(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Await `work` to its end, whatever happens to the caller meanwhile.

    A cancellation of the caller is raised after `work` has ended, not before.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    finally:
        await asyncio.wait({task})
