"""The models that share a device: whose prompts begin, and whose background rows make room.

A worker is governed where it meets the front: it is given nothing new before its turn, and its
background rows are paused. While only one model has requests, nothing is decided at all.
"""

import asyncio
import contextvars
from collections import Counter
from typing import Protocol

from opta_lmx.backends.frames import Step
from opta_lmx.core.clock import Clock
from opta_lmx.core.principal import Lane
from opta_lmx.engine.throttle import Throttle
from opta_lmx.scheduling.fair_line import FairLine
from opta_lmx.scheduling.governor import DeviceGovernor, DeviceStep, GovernorLimits
from opta_lmx.scheduling.tickets import Phase

_SHORTEST_LOOK_S = 0.005
_LONGEST_LOOK_S = 0.1
"""How often, at least, a shared device is looked at, for what no event tells (a stuck worker)."""


class Occupant(Protocol):
    """Who gives a model its requests: `engine.turns.Turns`."""

    def fill(self, *, begin: bool) -> None:
        """Ask rows to make room for who must not wait, and grant slots if any may (`begin`)."""
        ...

    def pause(self, lane: Lane) -> None:
        """Ask the rows of a lane to pause."""
        ...

    def admits(self, ticket: int) -> bool:
        """True when a request may begin now, were it its turn."""
        ...


class Seat:
    """One model's place on the device.

    Args:
        device: the device.
        name: names the seat, uniquely.
        line: the model's line.
        throttle: bounds how many of its requests run.
    """

    def __init__(self, device: "Device", name: str, line: FairLine, throttle: Throttle) -> None:
        self._device = device
        self.name = name
        self.line = line
        self.throttle = throttle
        self.occupant: Occupant | None = None
        self.serving = False
        """Its worker is there."""
        self.begins = False
        """A request would begin now, if it were the model's turn."""

    @property
    def limit(self) -> int:
        """Requests that may run at once."""
        return self.throttle.limit

    @property
    def busy(self) -> bool:
        """True while it uses the device, or would."""
        return self.serving and bool(self.line.running or self.line.waiting)

    def resume(self, slots: int) -> None:
        """A worker is ready, with so many slots."""
        self.serving = True
        self.throttle.resume(slots)

    def leave(self) -> None:
        """The worker is gone."""
        self.serving = False
        self._device.left(self)

    def arrange(self) -> None:
        """Something has come or gone: whoever may begin does."""
        self._device.arrange(self)

    def stepped(self, step: Step) -> bool:
        """Take in a step; True when more requests may run than before."""
        alone = self._device.stepped(self, step)
        return self.throttle.stepped(step, alone=alone)

    def prompts(self) -> Counter[Lane]:
        """Prompts being processed, and the one that would begin now, by lane."""
        found = Counter(
            row.caller.lane
            for row in self.line.rows
            if not row.stint and row.phase is not Phase.YIELDING
        )
        upcoming, occupant = self.line.upcoming(), self.occupant
        if upcoming is not None and occupant is not None and not occupant.admits(upcoming.number):
            upcoming = None
        self.begins = upcoming is not None
        if upcoming is not None:
            found[upcoming.caller.lane] += 1
        return found

    def fill(self, *, begin: bool) -> None:
        """Let its requests begin, if any may, and rows make room."""
        if self.occupant is not None:
            self.occupant.fill(begin=begin)

    def describe(self, step: Step) -> DeviceStep:
        """The step by lanes. One that tells of no tokens and no prompts was of prompts alone."""
        caller = self.line.caller
        rows = Counter(caller(token.request).lane for token in step.tokens)
        prompts = [caller(one.request).lane for one in step.started]
        prompts += [caller(request).lane for request, *_ in step.prefill]
        if not rows and not prompts:
            prompts = [row.caller.lane for row in self.line.rows]
        return DeviceStep(step.ms, rows, min(prompts, default=None))


class Device:
    """Governs the models of one engine. For the event loop alone.

    Args:
        clock: time.
        limits: what background may take, and how long turns are.
    """

    def __init__(self, clock: Clock, limits: GovernorLimits | None = None) -> None:
        self._clock = clock
        self._governor = DeviceGovernor(limits)
        self._busy: dict[str, Seat] = {}
        self._seats = 0
        self._shared_until = float("-inf")
        self._watch: asyncio.Task[None] | None = None

    def seat(self, name: str, line: FairLine, *, adaptive: bool = False) -> Seat:
        """A place for one more model."""
        self._seats += 1
        return Seat(self, f"{name} {self._seats}", line, Throttle(line, adaptive=adaptive))

    @property
    def shared(self) -> bool:
        """True while more than one model has requests."""
        return len(self._busy) > 1

    def arrange(self, seat: Seat) -> None:
        """The requests of a model have changed: whoever may begin does."""
        if seat.busy:
            self._busy[seat.name] = seat
        elif seat.name in self._busy:
            self._vacate(seat)
        if self.shared:
            self._govern()
        else:
            seat.fill(begin=True)

    def left(self, seat: Seat) -> None:
        """A model's worker is gone."""
        seat.line.bar(Lane.BACKGROUND, barred=False)
        if seat.name in self._busy:
            self._vacate(seat)
        self._governor.left(seat.name, self._clock.monotonic())
        if self.shared:
            self._govern()

    def stepped(self, seat: Seat, step: Step) -> bool:
        """A worker tells of a step; True when no other model was active meanwhile."""
        now = self._clock.monotonic()
        if not self.shared:
            return now - step.ms / 1000 >= self._shared_until
        self._governor.stepped(seat.name, seat.describe(step), now)
        self._govern(rooms=False)
        return False

    def close(self) -> None:
        """Nothing is governed from here on."""
        if self._watch is not None:
            self._watch.cancel()

    def _vacate(self, seat: Seat) -> None:
        """A model has no requests left; whoever is alone then may do as it likes."""
        was_shared, now = self.shared, self._clock.monotonic()
        del self._busy[seat.name]
        if was_shared:
            self._free(seat, now)
        if was_shared and not self.shared:
            self._shared_until = now
            (alone,) = self._busy.values()
            self._free(alone, now)
            self._governor.prefilling(now)  # nobody's turn it is, then
            alone.fill(begin=True)

    def _free(self, seat: Seat, now: float) -> None:
        """Nothing is held back in a model of which the governor knows nothing for now."""
        self._governor.running(seat.name, {}, now)
        self._governor.waiting(seat.name, {}, now)
        seat.line.bar(Lane.BACKGROUND, barred=False)

    def _govern(self, *, rooms: bool = True) -> None:
        """Tell the governor who runs and waits, and do what it decides.

        `rooms`: see too whether rows must make room, which not every step is an occasion for.
        """
        now, governor = self._clock.monotonic(), self._governor
        seats = list(self._busy.values())
        for seat in seats:
            governor.running(seat.name, Counter(row.caller.lane for row in seat.line.rows), now)
        self._hold(seats, held=governor.background_held(now))
        for seat in seats:
            governor.waiting(seat.name, seat.prompts(), now)
        turn = governor.prefilling(now)
        for seat in seats:
            begin = seat.name == turn
            if rooms or (begin and seat.begins):
                seat.fill(begin=begin)
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(
                self._look(), name="device", context=contextvars.Context()
            )

    def _hold(self, seats: list[Seat], *, held: bool) -> None:
        """Background of all models waits, or goes on."""
        for seat in seats:
            seat.line.bar(Lane.BACKGROUND, barred=held)
            if held and seat.occupant is not None:
                seat.occupant.pause(Lane.BACKGROUND)

    async def _look(self) -> None:
        """While models share the device, see now and then whose time has come."""
        while self.shared:
            wait_s = self._governor.background_wait_s(self._clock.monotonic()) or _LONGEST_LOOK_S
            await self._clock.sleep(min(_LONGEST_LOOK_S, max(_SHORTEST_LOOK_S, wait_s)))
            if self.shared:
                self._govern()
