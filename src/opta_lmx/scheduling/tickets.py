"""One request in the line, from its place to its release."""

from enum import IntEnum

import msgspec

from opta_lmx.core.principal import Caller
from opta_lmx.scheduling.places import Tally
from opta_lmx.scheduling.rules import Work
from opta_lmx.scheduling.shares import Share

NEVER = 1 << 62
"""More tokens than any answer has."""


class Phase(IntEnum):
    """Where a ticket is in its life; whoever yields still holds the slot."""

    PREPARING = 0
    READY = 1
    RUNNING = 2
    YIELDING = 3


class Ticket:
    """What the line knows of one request.

    Args:
        number: its name to the outside.
        caller: who asks.
        tally: the counts of its client.
        now: the time (s).
    """

    __slots__ = (
        "aged",
        "ahead",
        "asked_at",
        "base",
        "caller",
        "entered_at",
        "expected",
        "expected_s",
        "first_at",
        "granted",
        "granted_at",
        "grows_at",
        "held_at",
        "held_s",
        "leaf",
        "number",
        "order",
        "paid",
        "paused_at",
        "phase",
        "produced",
        "ready_at",
        "stint",
        "stops",
        "tally",
        "together",
        "told",
        "work",
    )

    def __init__(self, number: int, caller: Caller, tally: Tally, now: float) -> None:
        self.number = number
        self.caller = caller
        self.tally = tally
        self.entered_at = now
        self.together: tuple[int, ...] = (number,)
        """The tickets of all answers to the same call."""
        self.told = 0.0
        """When its caller was told to come back, its time being up (s from then; 0: it was not)."""
        self.ready_at = now
        self.phase = Phase.PREPARING
        self.work = Work()
        self.leaf: Share | None = None
        self.order = 0
        """Rank among the ready; kept when it is paused."""
        self.granted = 0
        """Rank of its latest grant; 0 before the first."""
        self.granted_at = now
        self.expected = 0.0
        """Cost it is expected to cause from its next grant to its end."""
        self.expected_s = 0.0
        """Seconds it is expected to hold a slot."""
        self.first_at = now
        """When its answer began, or went on, after the latest grant."""
        self.paid = 0.0
        """Cost charged to it, the prompt's included."""
        self.ahead: tuple[float, ...] = ()
        """What `Share.settle` needs to know of its prompt; nothing once that is done."""
        self.held_s = 0.0
        """Seconds it has held slots, its present stay not counted."""
        self.produced = 0
        """Tokens of answer."""
        self.stint = 0
        """Tokens of answer since the latest grant."""
        self.paused_at: tuple[float, ...] = ()
        """When it was last asked to yield, at most two times."""
        self.asked_at = 0
        """Tokens of answer it had when it was last asked to yield."""
        self.held_at = 0
        """What its grant's rank would have been when its caches were first found not to fit."""
        self.base = 0
        """Tokens of answer before the latest grant: they count as prompt there."""
        self.grows_at = NEVER
        """Tokens of answer at which its caches need more room."""
        self.aged = False
        """It runs because its lane had waited too long: it is left alone."""
        self.stops = 0
        """How often it was paused for another model since it last got on."""

    @property
    def share(self) -> Share:
        """The counters of its client; set once it is ready."""
        assert self.leaf is not None
        return self.leaf

    @property
    def holds_slot(self) -> bool:
        """True while a slot is its own."""
        return self.phase >= Phase.RUNNING

    def ask_to_yield(self) -> None:
        """It is to give its slot up: it no longer claims one."""
        self.phase = Phase.YIELDING
        self.asked_at = self.produced
        self.share.claim(-1)

    def go_on(self) -> None:
        """It did not yield, because the engine cannot pause it after all: it is left alone."""
        self.phase = Phase.RUNNING
        self.work = msgspec.structs.replace(self.work, pausable=False)
        self.share.claim(1)
