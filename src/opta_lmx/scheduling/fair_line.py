"""The bounded waiting line of one model: fair to keys and clients, by service, not by turns."""

from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.principal import Caller, Lane
from opta_lmx.scheduling.openings import Openings
from opta_lmx.scheduling.places import key_of
from opta_lmx.scheduling.promises import Before, Promises
from opta_lmx.scheduling.retry import retry_after
from opta_lmx.scheduling.rules import Depth, LineRules, Position, Work
from opta_lmx.scheduling.slots import Slots
from opta_lmx.scheduling.tickets import Phase, Ticket

_DEAF = 64
"""Tokens of answer after being asked to yield: a row that has produced more does not yield."""


class FairLine(Slots):
    """Counts who is in front of the model and decides who runs next, and who makes room.

    A ticket is entered at the first gate, becomes ready when its prompt is prepared, runs when
    a slot is granted, is charged what it causes, and is released. A running one may be asked
    to yield: it keeps its slot until it has, and then waits again in its old place. Calls for
    tickets that are gone, or in another phase, do nothing.

    Args:
        rules: the policy.
        clock: time.
    """

    def __init__(self, rules: LineRules, clock: Clock) -> None:
        super().__init__(rules, clock)
        self._promises = Promises(self._forecast.outside)
        self._openings = Openings(self._order, self._places, self._forecast)

    # --- waiting --------------------------------------------------------------

    def enter(self, caller: Caller) -> int:
        """Take a ticket. Raises RATE_LIMITED when there is no place for this caller."""
        return self.enter_many(1, caller)[0]

    def enter_many(self, count: int, caller: Caller) -> tuple[int, ...]:
        """Take several tickets or none. Raises RATE_LIMITED when there is not room for all."""
        now = self._clock.monotonic()
        before = self._promises.before(caller, now, count)
        places, rows = self._places, self.running
        if not places.has_room(caller, count, self.slots, rows, kept=before.kept, due=before.due):
            wait_s = self._place_s(caller, count, before, now)
            if count <= self.slots + self.rules.max_waiting:
                self._promises.tell(caller, count, self._order.known(caller).path, wait_s, now)
            raise LmxError(
                ErrorKind.RATE_LIMITED,
                f"The waiting line of this model is full ({self.waiting} waiting, "
                f"{self.running} running). Retry later.",
                code="queue_full",
                retry_after=wait_s,
            )
        self._promises.redeem(caller, now)
        tally = self._places.enter(caller, count)
        first, self._last = self._last + 1, self._last + count
        numbers = tuple(range(first, self._last + 1))
        for number in numbers:
            ticket = self._tickets[number] = Ticket(number, caller, tally, now)
            ticket.together = numbers
        return numbers

    def mark_ready(self, number: int, work: Work) -> None:
        """The ticket's prompt is prepared: it takes its turn from here on.

        Called again while it waits, it says anew what the ticket asks (a prefix that is now in
        cache).
        """
        ticket = self._tickets.get(number)
        if ticket is None or ticket.holds_slot:
            return
        if ticket.phase is Phase.READY:
            ticket.share.remove(ticket)
        else:
            ticket.leaf = self._order.leaf(ticket.caller)
            ticket.ready_at = self._clock.monotonic()
            self._readied += 1
            ticket.order = self._readied
        ticket.work = work
        self._line_up(ticket)

    def _line_up(self, ticket: Ticket) -> None:
        """Put a ticket among the ready; its prompt is paid for once, however often it runs."""
        self._stuck = False
        prompt = 0.0 if ticket.granted else ticket.work.cost(self.rules.prices)
        left = self._forecast.answer(ticket)
        ticket.phase = Phase.READY
        ticket.expected = prompt + left.cost
        ticket.expected_s = prompt * self.pace.prompt_s.value + left.seconds
        now = self._clock.monotonic()
        if not ticket.granted:
            ticket.share.came(ticket.expected, ticket.expected_s, now)
        self._order.insert(ticket, now)

    def leave(self, number: int) -> None:
        """Forget a ticket that waits; the slot of one that runs is not touched."""
        ticket = self._tickets.get(number)
        if ticket is None or ticket.holds_slot:
            return
        if ticket.phase is Phase.READY:
            ticket.share.remove(ticket)
        self._break_off(ticket)
        self._stuck = False
        self._forget(ticket)

    # --- running --------------------------------------------------------------

    def grant(self) -> int | None:
        """Give a free slot to whoever is next, or return None."""
        ticket, now = self.upcoming(), self._clock.monotonic()
        if ticket is None:
            return None
        self._order.take(ticket, now)
        self._places.start(ticket.tally, first=not ticket.granted)
        if not ticket.granted:
            ticket.paid = ticket.work.cost(self.rules.prices)
            ticket.ahead = ticket.share.pay_ahead(ticket.paid)
        self._granted += 1
        ticket.granted_at = now
        ticket.granted, ticket.stint, ticket.phase = self._granted, 0, Phase.RUNNING
        self._rows[ticket.number] = ticket
        if self.room is not None:
            self.room.take(ticket)
        return ticket.number

    def charge(self, number: int, tokens: int) -> None:
        """Count tokens of answer that a running ticket has produced."""
        ticket = self._rows.get(number)
        if ticket is None:
            return
        if not ticket.stint:
            self._began(ticket)
        ticket.produced += tokens
        ticket.stint += tokens
        cost = tokens * self.rules.prices.answer
        ticket.paid += cost
        ticket.share.charge(cost)
        if ticket.produced >= ticket.grows_at and self.room is not None:
            self.room.grow(ticket)
        if ticket.phase is Phase.YIELDING and ticket.produced > ticket.asked_at + _DEAF:
            ticket.go_on()
            self._order.renew()  # somebody else has to make room

    def _began(self, ticket: Ticket) -> None:
        """The first of an answer, or of its continuation: what came before was the prompt."""
        ticket.first_at = self._clock.monotonic()
        if not ticket.produced:
            self.pace.prompt_s.add(ticket.first_at - ticket.granted_at, ticket.paid)
        self._settle(ticket)

    def _settle(self, ticket: Ticket, back: float = 0.0) -> None:
        """A ticket's prompt is done, or given up; `back` is given back of what it paid for it."""
        if ticket.ahead:
            ticket.share.settle(ticket.ahead, ticket.paid, back)
            ticket.ahead = ()
            ticket.paid -= back

    def _break_off(self, ticket: Ticket) -> None:
        """Without any answer, it pays no more than the time it held slots is worth."""
        used = ticket.held_s / max(self.pace.prompt_s.value, 1e-9)
        self._settle(ticket, 0.0 if ticket.produced else max(0.0, ticket.paid - used))

    def yielded(self, number: int) -> None:
        """A ticket let go of its slot, asked to or not, and waits again in its old place."""
        ticket = self._rows.get(number)
        if ticket is not None:
            ticket.held_s += self._clock.monotonic() - ticket.granted_at
            self._measure(ticket)
            self._vacate(ticket)
            self._line_up(ticket)

    def release(self, number: int, *, finished: bool = True) -> None:
        """Free the slot of a ticket, which is over.

        Args:
            number: the ticket.
            finished: False when it was broken off: it then pays less, as `_break_off` has it.
        """
        ticket = self._rows.get(number)
        if ticket is None:
            return
        held_s = self._clock.monotonic() - ticket.granted_at
        ticket.held_s += held_s
        self._measure(ticket)
        if finished:
            self._learn(ticket, held_s)
            self._settle(ticket)
        else:
            self._break_off(ticket)
        if ticket.produced:
            self._lengths.record(key_of(ticket.caller), ticket.produced)
        self._vacate(ticket)
        self._forget(ticket)

    def _measure(self, ticket: Ticket) -> None:
        """Note how long the tokens of a stay in a slot took."""
        if ticket.stint > 1:
            self.pace.token_s.add(self._clock.monotonic() - ticket.first_at, ticket.stint - 1)

    def _learn(self, ticket: Ticket, held_s: float) -> None:
        """Note what a request was that came to its own end."""
        self.pace.request_s.add(held_s)
        if not ticket.produced:
            self.pace.prompt_s.add(held_s, ticket.paid)
        for average in (self.pace.answer, *(share.answer for share in ticket.share.path[-2:])):
            average.add(ticket.produced)

    def _vacate(self, ticket: Ticket) -> None:
        """Take the slot, and room for caches, from a ticket."""
        self._stuck = False
        del self._rows[ticket.number]
        if self.room is not None:
            self.room.release(ticket)
        ticket.share.hold(-1)
        if ticket.phase is Phase.YIELDING:
            ticket.share.claim(1)
        self._places.stop(ticket.tally)

    def _forget(self, ticket: Ticket) -> None:
        self.left_at = self._clock.monotonic()
        del self._tickets[ticket.number]
        self._places.forget(ticket.caller, ticket.tally, waiting=not ticket.granted)
        if ticket.leaf is not None:
            ticket.leaf.rest(self.rules.idle_clients)

    # --- what to expect -------------------------------------------------------

    def retry_after(self, caller: Caller) -> float:
        """Seconds until a place is surely this caller's: when all its waiting ones have run."""
        self._refused += 1
        before = self._order.known(caller).queue[:-1]
        return retry_after(self._turn(caller, before).estimate_s, self._refused)

    def give_up(self, number: int, least_s: float = 0.0) -> float:
        """The time of a call is up, and its tickets are about to leave.

        Its caller is promised places for when it is told to come back, as one is who finds none.

        Args:
            number: one of its tickets.
            least_s: before that nobody begins.

        Returns:
            What the caller is told (s): the same for each of the tickets.
        """
        ticket = self._tickets.get(number)
        if ticket is None:
            return max(least_s, self.retry_after(Caller()))
        if not ticket.told:
            caller, now = ticket.caller, self._clock.monotonic()
            path = self._order.known(caller).path
            wait_s = max(least_s, self.retry_after(caller))
            self._promises.add(caller, len(ticket.together), path, wait_s, now)
            for one in ticket.together:
                if one in self._tickets:
                    self._tickets[one].told = wait_s
        return ticket.told

    def _place_s(self, caller: Caller, count: int, before: Before, now: float) -> float:
        """Seconds until `count` places are this caller's, as it is told."""
        lack = self._places.lack(caller, count, self.slots, self.running, before.places)
        scene = self._forecast.scene(self._rows.values(), self._useful_slots, now)
        paused = self.waiting - self._places.waiting
        found_s = self._openings.next_s(caller, lack, before, paused, scene)
        self._refused += 1
        # The longer it has lasted, the longer it is likely to.
        return retry_after(max(found_s, before.waited_s / 2), self._refused)

    def position(self, number: int) -> Position:
        """How many go before a waiting ticket, and how long that takes; (0, 0) for any other."""
        ticket = self._tickets.get(number)
        if ticket is None or ticket.holds_slot:
            return Position(0, 0.0)
        queue = self._order.known(ticket.caller).queue
        before = [one for one in queue if one.order < ticket.order or not ticket.order]
        return self._turn(ticket.caller, before)

    def _turn(self, caller: Caller, before: list[Ticket]) -> Position:
        now = self._clock.monotonic()
        self._promises.expire(now)
        slots = self._useful_slots
        found = self._forecast.turn(caller, before, self._rows.values(), slots, now)
        preparing = self.waiting - self._order.ready
        wait_s = preparing * self.pace.request_s.value / slots
        return Position(found.ahead + preparing, found.estimate_s + wait_s)

    @property
    def _useful_slots(self) -> int:
        """Slots that are used: where caches do not fit, no more than run."""
        return max(1, self.running) if self._held_back else self.slots

    def depths(self) -> tuple[Depth, ...]:
        """What each client has in each lane, waiting and running."""
        now = self._clock.monotonic()
        found: dict[tuple[Lane, str, str, str], list[Ticket]] = {}
        for ticket in self._tickets.values():
            caller, who = ticket.caller, ticket.caller.principal
            name = (caller.lane, who.tenant, who.key, caller.client)
            found.setdefault(name, []).append(ticket)
        return tuple(_depth(name, tickets, now) for name, tickets in sorted(found.items()))


def _depth(name: tuple[Lane, str, str, str], tickets: list[Ticket], now: float) -> Depth:
    waits = [now - ticket.entered_at for ticket in tickets if not ticket.holds_slot]
    running = len(tickets) - len(waits)
    return Depth(*name, waiting=len(waits), running=running, oldest_s=max(waits, default=0.0))
