"""An endless row of newcomers does not go before who was there already."""

import pytest

from opta_lmx.core.principal import Caller, Lane, Principal
from opta_lmx.scheduling.fair_line import FairLine
from opta_lmx.scheduling.rules import LineRules, Work
from tests.support.clocks import HandClock

PROMPT, ANSWER = 200, 96
COST = PROMPT + 2 * ANSWER


class Bench:
    """A machine of a few slots on which all requests are alike; a step gives each row a token.

    Args:
        slots: how many there are.
        rivals: requests that newcomers keep in flight.
    """

    def __init__(self, slots: int, rivals: int, quantum: float) -> None:
        self.line = FairLine(LineRules(max_waiting=400, quantum=quantum), HandClock())
        self.line.set_slots(slots)
        self.key = Principal(key="shared")
        self.rows: dict[int, int] = {}
        self.seen: set[int] = set()
        self.rivals: set[int] = set()
        self.names = 0
        for _ in range(rivals):
            self.come()

    def enter(self, client: str, prompt: int = PROMPT) -> int:
        """A request of a client of the key that all share."""
        ticket = self.line.enter(Caller(self.key, client, Lane.INTERACTIVE))
        self.line.mark_ready(ticket, Work(prompt))
        return ticket

    def come(self) -> None:
        """A client that was never seen before."""
        self.names += 1
        self.rivals.add(self.enter(f"new-{self.names}"))

    def step(self) -> None:
        """Fill the slots, let every row say something, and replace those that have ended."""
        while (ticket := self.line.grant()) is not None:
            self.granted(ticket)
        for ticket in list(self.rows):
            self.line.charge(ticket, 1)
            self.rows[ticket] += 1
            if self.rows[ticket] == ANSWER:
                del self.rows[ticket]
                self.line.release(ticket)
                if ticket in self.rivals:
                    self.come()

    def granted(self, ticket: int) -> None:
        """A request has a slot."""
        self.rows[ticket] = 0
        self.seen.add(ticket)

    def until_granted(self, ticket: int, most: int) -> int:
        """How many others were granted a slot before this one."""
        before = len(self.seen)
        while ticket not in self.seen:
            self.step()
            assert len(self.seen) - before <= most
        return len(self.seen) - before - 1


class BreakingOff(Bench):
    """The newcomers also begin long prompts, and break each off while few of their names are left.

    Many others of their names wait until then: what the prompt is charged is divided among many.
    """

    LONG, CROWD = 30_000, 40

    def __init__(self, slots: int, rivals: int, quantum: float) -> None:
        super().__init__(slots, rivals, quantum)
        self.broken_off = 0
        self.long, self.crowd = 0, list[int]()
        self.begin()

    def begin(self) -> None:
        """A long prompt, and a crowd behind it."""
        self.broken_off += 1
        names = [f"crowd-{self.broken_off}-{number}" for number in range(self.CROWD)]
        self.long = self.enter(f"long-{self.broken_off}", self.LONG)
        self.crowd = [self.enter(name) for name in names]

    def granted(self, ticket: int) -> None:
        """It is broken off at once where it is the long one."""
        if ticket != self.long:
            super().granted(ticket)
            return
        for one in self.crowd:
            self.line.leave(one)
        self.line.release(ticket, finished=False)
        self.begin()


@pytest.mark.parametrize("quantum", [0.0, 1024.0])
@pytest.mark.parametrize(("slots", "rivals"), [(1, 3), (2, 8), (8, 24)])
def test_breaking_prompts_off_gains_newcomers_nothing(
    slots: int, rivals: int, quantum: float
) -> None:
    bench = BreakingOff(slots, rivals, quantum)
    while bench.broken_off < 8:
        bench.step()
    # One round of all who are there.
    most = rivals + bench.CROWD + 2 * slots + 2
    for _ in range(8):
        bench.until_granted(bench.enter("steady"), most)


def test_what_a_prompt_raised_is_taken_back_when_it_is_broken_off() -> None:
    line = FairLine(LineRules(quantum=0.0), HandClock())

    def ask(client: str, prompt: int) -> int:
        ticket = line.enter(Caller(Principal(key="k"), client, Lane.INTERACTIVE))
        line.mark_ready(ticket, Work(prompt))
        return ticket

    long, others = ask("long", 30_000), [ask(f"other-{number}", 100) for number in range(5)]
    share = line._order.known(Caller(Principal(key="k"), "long", Lane.INTERACTIVE))
    before = [level.even for level in share.upwards()]
    assert line.grant() == long
    for ticket in others:
        line.leave(ticket)
    line.release(long, finished=False)
    assert [level.even for level in share.upwards()] == pytest.approx(before)
    assert [level.ahead for level in share.upwards()] == pytest.approx([0.0] * 5)


def test_who_comes_while_a_prompt_runs_is_not_behind_all_that_come_after_it_is_broken_off() -> None:
    bench = Bench(1, 0, 0.0)
    long = bench.enter("long", 30_000)
    for _ in range(3):
        bench.come()
    assert bench.line.grant() == long
    victim = bench.enter("victim")
    bench.line.release(long, finished=False)
    bench.until_granted(victim, 8)


@pytest.mark.parametrize("end", ["release", "leave"])
def test_a_prompt_broken_off_pays_for_all_its_time_in_slots(end: str) -> None:
    clock = HandClock()
    line = FairLine(LineRules(preemptible=True), clock)
    caller = Caller(Principal(key="k"), "paused", Lane.INTERACTIVE)
    ticket = line.enter(caller)
    line.mark_ready(ticket, Work(30_000))
    held_s = 2000 * line.pace.prompt_s.value
    assert line.grant() == ticket
    clock.now += held_s
    line.yielded(ticket)
    if end == "release":
        assert line.grant() == ticket
        clock.now += held_s
        line.release(ticket, finished=False)
    else:
        line.leave(ticket)
    paid = line._order.known(caller).used
    assert paid == pytest.approx(4000 if end == "release" else 2000)


def test_what_was_paid_ahead_is_settled_however_a_request_ends() -> None:
    clock = HandClock()
    line = FairLine(LineRules(preemptible=True), clock)
    line.set_slots(4)
    tickets = [line.enter(Caller(Principal(key="k"), f"{n}", Lane.INTERACTIVE)) for n in range(4)]
    for ticket in tickets:
        line.mark_ready(ticket, Work(1000))
        line.grant()
    key = line._order.known(Caller(Principal(key="k"), "0", Lane.INTERACTIVE)).parent
    assert key is not None
    assert key.ahead > 0
    line.charge(tickets[0], 1)
    line.release(tickets[1])
    line.release(tickets[2], finished=False)
    line.yielded(tickets[3])
    line.leave(tickets[3])
    assert key.ahead == pytest.approx(0.0)


@pytest.mark.parametrize("quantum", [0.0, 1024.0])
@pytest.mark.parametrize(("slots", "rivals"), [(1, 3), (2, 8), (8, 24)])
def test_a_client_of_the_same_key_has_its_turn_each_round(
    slots: int, rivals: int, quantum: float
) -> None:
    """Who names itself anew each time has many turns in a round, but not all of them for ever."""
    bench = Bench(slots, rivals, quantum)
    for _ in range(50):
        bench.step()
    # All who are there at once, and what the order may bend to a warm prefix.
    most = 2 * (rivals + slots) + slots * round(quantum / COST) + 2
    for _ in range(12):
        bench.until_granted(bench.enter("steady"), most)


def test_so_it_has_after_a_long_time_of_many_names() -> None:
    """Bursts of names that are never seen again leave nothing behind that would slow time down."""
    bench = Bench(2, 8, 1024.0)
    for burst in range(400):
        for number in range(6 if burst % 8 == 0 else 0):
            bench.enter(f"burst-{burst}-{number}")
        for _ in range(100):
            bench.step()
    for _ in range(2000):
        bench.step()
    for _ in range(6):
        bench.until_granted(bench.enter("steady"), 2 * (8 + 2) + 2 * round(1024 / COST) + 2)
    clients = bench.line._order.known(Caller(bench.key, "steady", Lane.INTERACTIVE)).parent
    assert clients is not None
    assert clients.weighing <= len(clients.leaving) + 11 <= 60


def test_what_is_given_back_is_no_credit_against_those_who_came_meanwhile() -> None:
    clock = HandClock()
    line = FairLine(LineRules(quantum=0.0), clock)

    def ask(client: str, prompt: int) -> int:
        ticket = line.enter(Caller(Principal(key="k"), client, Lane.INTERACTIVE))
        line.mark_ready(ticket, Work(prompt))
        return ticket

    broken = ask("hog", 30_000)
    assert line.grant() == broken
    for _ in range(5):
        ask("hog", 100)
    other = ask("other", 100)
    line.release(broken, finished=False)
    first = [line.grant()]
    line.release(first[0] or 0)
    first.append(line.grant())
    assert other in first


def test_a_row_that_waits_again_keeps_its_counter() -> None:
    clock = HandClock()
    line = FairLine(LineRules(quantum=0.0, preemptible=True), clock)
    line.set_slots(2)

    def run(client: str, prompt: int) -> int:
        ticket = line.enter(Caller(Principal(key="k"), client, Lane.INTERACTIVE))
        line.mark_ready(ticket, Work(prompt))
        assert line.grant() == ticket
        return ticket

    small, large = run("small", 100), run("large", 10_000)
    line.yielded(small)
    share = line._order.known(Caller(Principal(key="k"), "small", Lane.INTERACTIVE))
    assert share.used <= 200
    assert large


def test_newcomers_are_not_behind_those_who_wait() -> None:
    """They wait no longer than who has had as much as everybody."""
    bench = Bench(2, 8, 0.0)
    for _ in range(1000):
        bench.step()
    for name in range(12):
        bench.until_granted(bench.enter(f"other-{name}"), 2 * (8 + 2) + 2)
