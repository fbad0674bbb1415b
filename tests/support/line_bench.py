"""A fair line on a bench: short words for what its tests do over and over."""

from opta_lmx.core.principal import Caller, Lane, Principal
from opta_lmx.scheduling.fair_line import FairLine
from opta_lmx.scheduling.rules import LaneRule, LineRules, Work
from tests.support.fleet_sim import SimClock

PATIENT = (LaneRule(8.0), LaneRule(4.0), LaneRule(1.0, spare=1))
HASTY = (LaneRule(8.0, patience_s=0.0), LaneRule(4.0, patience_s=0.0), LaneRule(1.0, spare=1))


def bot(
    client: str = "bot",
    key: str = "key",
    lane: Lane = Lane.INTERACTIVE,
    weight: float = 1.0,
    most: int | None = None,
) -> Caller:
    return Caller(Principal(key=key, weight=weight, max_running=most), client, lane)


def rules(**changed: object) -> LineRules:
    usual = {"max_waiting": 200, "reserve": 0, "quantum": 0.0, "lanes": PATIENT}
    return LineRules(**{**usual, **changed})  # type: ignore[arg-type]


class Bench:
    """A line with a clock, and who holds its tickets."""

    def __init__(self, slots: int = 1, **changed: object) -> None:
        self.clock = SimClock()
        self.line = FairLine(rules(**changed), self.clock)
        self.line.set_slots(slots)
        self.names: dict[int, str] = {}

    def ask(self, caller: Caller, work: Work | None = None, count: int = 1) -> list[int]:
        """Tickets that are ready."""
        tickets = [self.line.enter(caller) for _ in range(count)]
        for ticket in tickets:
            self.line.mark_ready(ticket, work or Work(100))
            self.names[ticket] = caller.client
        return tickets

    def grants(self) -> list[str]:
        """Whose tickets get the free slots."""
        found: list[str] = []
        while (ticket := self.line.grant()) is not None:
            found.append(self.names[ticket])
        return found

    def serve(self, turns: int, tokens: int = 10, seconds: float = 1.0) -> list[str]:
        """One slot's turns: who had them."""
        found: list[str] = []
        for _ in range(turns):
            ticket = self.line.grant()
            if ticket is None:
                break
            self.clock.time += seconds / 2
            self.line.charge(ticket, 1)
            self.clock.time += seconds / 2
            self.line.charge(ticket, tokens - 1)
            self.line.release(ticket)
            found.append(self.names[ticket])
        return found
