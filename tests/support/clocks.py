"""Clocks that only a test moves."""

import asyncio


class HandClock:
    """Time that moves when told to, or slept through; `now` in seconds."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def monotonic(self) -> float:
        return self.now

    def now_ms(self) -> int:
        return int(self.now * 1000)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


class SteppedClock(HandClock):
    """As the other, but whoever sleeps waits until a test has let enough time pass."""

    def __init__(self, now: float = 0.0) -> None:
        super().__init__(now)
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    async def sleep(self, seconds: float) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, waiter))
        await waiter

    async def advance(self, seconds: float) -> None:
        """Let time pass, then let those who were woken do their work."""
        self.now += seconds
        due = [waiter for at, waiter in self._sleepers if at <= self.now]
        self._sleepers = [(at, waiter) for at, waiter in self._sleepers if at > self.now]
        for waiter in due:
            if not waiter.done():
                waiter.set_result(None)
        for _ in range(3):
            await asyncio.sleep(0)
