"""Several asynchronous iterators read as one."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Generic, TypeVar

_Item = TypeVar("_Item")


class Together(Generic[_Item]):
    """Asks all its iterators at once, and gives what they have in the order it comes.

    Args:
        parts: the iterators, known by their places.
    """

    def __init__(self, parts: Sequence[AsyncIterator[_Item]]) -> None:
        self._parts = parts
        self._pending: dict[int, asyncio.Future[_Item]] = {}
        self._begun = False

    async def next(self) -> list[tuple[int, _Item]]:
        """What came next, each with its iterator's place; nothing once all have ended.

        Raises what one of them raised.
        """
        if not self._begun:
            self._begun = True
            for place in range(len(self._parts)):
                self._ask(place)
        while self._pending:
            await asyncio.wait(self._pending.values(), return_when=asyncio.FIRST_COMPLETED)
            if arrived := self._gather():
                return arrived
        return []

    def _ask(self, place: int) -> None:
        future = asyncio.ensure_future(anext(self._parts[place]))
        future.add_done_callback(_look)
        self._pending[place] = future

    def _gather(self) -> list[tuple[int, _Item]]:
        arrived: list[tuple[int, _Item]] = []
        for place, future in list(self._pending.items()):
            if not future.done():
                continue
            del self._pending[place]
            try:
                arrived.append((place, future.result()))
            except StopAsyncIteration:
                continue
            self._ask(place)
        return arrived

    def drop(self, place: int) -> None:
        """Ask one iterator no more."""
        future = self._pending.pop(place, None)
        if future is not None:
            future.cancel()

    def close(self) -> None:
        """Ask none any more. Idempotent."""
        for place in [*self._pending]:
            self.drop(place)


def _look(future: "asyncio.Future[Any]") -> None:
    """See how it ended: the loop complains of failures that nobody looked at."""
    if not future.cancelled():
        future.exception()
