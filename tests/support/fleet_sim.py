"""A machine in simulated time: plays a fleet's requests through any line and watches it.

The machine decides nothing: it asks the line for grants and for rows to pause, runs rows at
the scenario's speeds, and keeps its own account of who was served how much.
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from opta_lmx.core.errors import LmxError
from opta_lmx.core.principal import Caller
from opta_lmx.scheduling.fair_line import FairLine
from opta_lmx.scheduling.rules import Work
from tests.support.fleet_scenarios import Asked, Scenario
from tests.support.fleet_watch import Watch

_LATE_S = (0.0, 0.1)
"""How much later than told a client is back (s)."""


class SimClock:
    """Time that only the simulation moves."""

    def __init__(self) -> None:
        self.time = 0.0

    def monotonic(self) -> float:
        """Seconds since the start."""
        return self.time

    def now_ms(self) -> int:
        """The same in milliseconds."""
        return int(self.time * 1000)

    async def sleep(self, seconds: float) -> None:
        """Nothing here waits."""
        raise AssertionError


class Line(Protocol):
    """What the machine needs of a line."""

    def enter_many(self, count: int, caller: Caller) -> tuple[int, ...]: ...
    def mark_ready(self, number: int, work: Work) -> None: ...
    def grant(self) -> int | None: ...
    def preempt(self) -> int | None: ...
    def charge(self, number: int, tokens: int) -> None: ...
    def yielded(self, number: int) -> None: ...
    def release(self, number: int, *, finished: bool = True) -> None: ...
    def leave(self, number: int) -> None: ...
    def set_slots(self, slots: int) -> None: ...
    def set_limit(self, limit: int | None) -> None: ...


class FirstComeLine(FairLine):
    """What everybody had before: one queue in order of arrival, for comparison."""

    def __init__(self, scenario: Scenario, clock: SimClock) -> None:
        super().__init__(scenario.rules, clock)
        self._queue: deque[int] = deque()
        self._held: set[int] = set()

    def mark_ready(self, number: int, work: Work) -> None:
        self._queue.append(number)

    def grant(self) -> int | None:
        if len(self._held) >= self.slots or not self._queue:
            return None
        number = self._queue.popleft()
        self._held.add(number)
        return number

    def preempt(self) -> int | None:
        return None

    def charge(self, number: int, tokens: int) -> None:
        pass

    def release(self, number: int, *, finished: bool = True) -> None:
        self._held.discard(number)
        super().leave(number)

    def leave(self, number: int) -> None:
        if number in self._queue:
            self._queue.remove(number)
        super().leave(number)


Policy = Callable[[Scenario, SimClock], Line]


def fair(scenario: Scenario, clock: SimClock) -> FairLine:
    """The line under test."""
    line = FairLine(scenario.rules, clock)
    line.set_room(scenario.kv, scenario.kv_bytes)
    return line


@dataclass(eq=False)
class Call:
    """A request and how often it was refused."""

    asked: Asked
    tries: int = 0


@dataclass
class Row:
    """A request that has a ticket."""

    asked: Asked
    began: float = 0.0
    prefilled: bool = False
    done: int = 0
    paid: bool = False
    asked_to_yield: bool = False
    running: bool = False
    ready: bool = False
    stay: int = 0


@dataclass
class Machine:
    """Plays one scenario."""

    scenario: Scenario
    policy: Policy
    clock: SimClock = field(default_factory=SimClock)
    rows: dict[int, Row] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.line = self.policy(self.scenario, self.clock)
        self.line.set_slots(self.scenario.slots)
        self.watch = Watch(self.scenario)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._prices = self.scenario.rules.prices
        self._draw = random.Random(self.scenario.seed)

    def play(self) -> Watch:
        """Run until nothing is left to do; return what was seen."""
        for one in self.scenario.asked:
            self._at(one.at, lambda one=one: self._arrive(Call(one)))
        for when, limit in self.scenario.limits:
            self._at(when, lambda limit=limit: self._limit(limit))
        while self._events:
            when, _, event = heapq.heappop(self._events)
            self.watch.passes(self.clock.time, when)
            self.clock.time = when
            event()
            self._dispatch()
            self.watch.look(when)
            self.watch.places.look(when)
            self._weigh()
        self.watch.left_over = len(self.rows)
        return self.watch

    def _at(self, when: float, event: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, event))

    def _limit(self, limit: int) -> None:
        self.line.set_limit(limit)
        self.watch.slots = self.watch.places.slots = min(limit, self.scenario.slots)

    def _arrive(self, call: Call) -> None:
        one, now = call.asked, self.clock.time
        try:
            (number,) = self.line.enter_many(1, one.caller)
        except LmxError as refused:
            self._refused(call, refused.retry_after or 0.0)
            return
        self.rows[number] = Row(one)
        self.watch.entered(number, one.caller, call, now)
        self._at(now + one.prepare_s, lambda: self._prepared(number))
        if one.patience_s is not None:
            self._at(now + one.patience_s, lambda: self._give_up(number))

    def _refused(self, call: Call, told: float) -> None:
        """Who is refused comes back when it was told to, or gives up."""
        call.tries += 1
        last = call.tries >= self.scenario.tries
        self.watch.refused(call, call.asked.caller, told, self.clock.time, last=last)
        if not last:
            late = self._draw.uniform(*_LATE_S)
            self._at(
                self.clock.time + math.ceil(told) + late,
                lambda: self._arrive(call),
            )
        else:
            self._again(call.asked, served=False)

    def _again(self, one: Asked, *, served: bool) -> None:
        """A request is over: its client may have another one."""
        following = self.scenario.following
        if following is not None:
            after = following(self._draw, one, self.clock.time, served=served)
            if after is not None:
                self._at(after.at, lambda: self._arrive(Call(after)))

    def _prepared(self, number: int) -> None:
        row = self.rows.get(number)
        if row is not None:
            row.ready = True
            self.line.mark_ready(number, row.asked.work)
            cost = row.asked.work.cost(self._prices) + self._prices.answer * row.asked.answer
            self.watch.ready(number, self.clock.time, cost)

    def _give_up(self, number: int) -> None:
        row = self.rows.pop(number, None)
        if row is None:
            return
        now = self.clock.time
        if row.running:
            if not row.prefilled:
                share = (now - row.began) / max(1e-9, self._prefill_s(row))
                cost = row.asked.work.cost(self._prices)
                self.watch.served(row.asked.caller, -cost * (1 - min(1.0, share)))
            self.line.release(number, finished=False)
            self.watch.stopped(number, row.asked.caller)
        else:
            self.line.leave(number)
            self.watch.left(number, row.asked.caller)
        self.watch.gone(row.asked.caller)

    def _dispatch(self) -> None:
        while (number := self.line.grant()) is not None:
            self._start(number)
        while (number := self.line.preempt()) is not None:
            row = self.rows[number]
            assert row.running
            assert not row.asked_to_yield
            row.asked_to_yield = True
            self.watch.pauses += 1
            if self.scenario.kv is not None and not row.prefilled:
                self._yield(number, row)
                self._dispatch()

    def _yield(self, number: int, row: Row) -> None:
        row.running = row.asked_to_yield = False
        self.line.yielded(number)
        self.watch.yielded(number, row.asked.caller)

    def _weigh(self) -> None:
        """Look at what the caches of all rows take."""
        cost = self.scenario.kv
        if cost is None:
            return
        rows = [(row.asked.work.prompt + row.done, row) for row in self.rows.values()]
        self.watch.caches([(tokens, row.asked.caller) for tokens, row in rows if row.running])

    def _prefill_s(self, row: Row) -> float:
        work = row.asked.work
        return work.cost(self._prices) / self._prices.prompt / self.scenario.prefill

    def _start(self, number: int) -> None:
        row, now = self.rows[number], self.clock.time
        assert row.ready
        assert not row.running
        row.running, row.began, row.stay = True, now, row.stay + 1
        self.watch.granted(number, row.asked.caller, now)
        if not row.paid:
            row.paid = True
            self.watch.served(row.asked.caller, row.asked.work.cost(self._prices))
        wait = 1 / self.scenario.decode + (0.0 if row.prefilled else self._prefill_s(row))
        self._at(now + wait, lambda: self._produce(number, row.stay, 1))

    def _produce(self, number: int, stay: int, tokens: int) -> None:
        row, now = self.rows.get(number), self.clock.time
        if row is None or not row.running or row.stay != stay:
            return
        row.prefilled = True
        row.done += tokens
        self.line.charge(number, tokens)
        self.watch.served(row.asked.caller, tokens * self._prices.answer)
        if row.done >= row.asked.answer:
            del self.rows[number]
            self.line.release(number)
            self.watch.stopped(number, row.asked.caller)
            self.watch.gone(row.asked.caller)
            self._again(row.asked, served=True)
        elif row.asked_to_yield:
            self._yield(number, row)
        else:
            more = min(self.scenario.step, row.asked.answer - row.done)
            wait = more / self.scenario.decode
            self._at(now + wait, lambda: self._produce(number, stay, more))


def play(scenario: Scenario, policy: Policy = fair) -> Watch:
    """Play a scenario through a line."""
    return Machine(scenario, policy).play()
