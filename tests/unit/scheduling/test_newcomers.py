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

    def enter(self, client: str) -> int:
        """A request of a client of the key that all share."""
        ticket = self.line.enter(Caller(self.key, client, Lane.INTERACTIVE))
        self.line.mark_ready(ticket, Work(PROMPT))
        return ticket

    def come(self) -> None:
        """A client that was never seen before."""
        self.names += 1
        self.rivals.add(self.enter(f"new-{self.names}"))

    def step(self) -> None:
        """Fill the slots, let every row say something, and replace those that have ended."""
        while (ticket := self.line.grant()) is not None:
            self.rows[ticket] = 0
            self.seen.add(ticket)
        for ticket in list(self.rows):
            self.line.charge(ticket, 1)
            self.rows[ticket] += 1
            if self.rows[ticket] == ANSWER:
                del self.rows[ticket]
                self.line.release(ticket)
                if ticket in self.rivals:
                    self.come()

    def until_granted(self, ticket: int, most: int) -> int:
        """How many others were granted a slot before this one."""
        before = len(self.seen)
        while ticket not in self.seen:
            self.step()
            assert len(self.seen) - before <= most
        return len(self.seen) - before - 1


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
