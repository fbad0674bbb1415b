"""Any order of calls: no slot lost or given twice, no ticket forgotten, counts that agree."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.principal import Caller, Lane, Principal
from opta_lmx.scheduling.fair_line import FairLine
from opta_lmx.scheduling.rules import LaneRule, LineRules, Pausing, Work
from opta_lmx.scheduling.shares import Share
from tests.support.fleet_sim import SimClock

CALLERS = [
    Caller(Principal(tenant, f"key-{key}", weight=weight, max_running=most), f"bot-{client}", lane)
    for tenant, key, weight, most in (("a", 0, 1.0, None), ("a", 1, 2.0, 2), ("b", 0, 1.0, None))
    for client in range(3)
    for lane in Lane
]
WORK = st.builds(
    Work,
    prompt=st.integers(0, 500),
    cached=st.integers(0, 600),
    most=st.none() | st.integers(0, 50),
    pausable=st.booleans(),
)


def machine_rules(preemptible: bool, max_waiting: int) -> LineRules:
    return LineRules(
        max_waiting=max_waiting,
        lanes=(
            LaneRule(8.0, patience_s=0.0),
            LaneRule(4.0, patience_s=1.0, max_running=3),
            LaneRule(1.0, spare=1),
        ),
        quantum=50.0,
        ageing_s=20.0,
        preemptible=preemptible,
        client_max_running=3,
        pausing=Pausing(slice_tokens=20, progress_tokens=2, calm_s=3.0),
        idle_clients=2,
    )


class FairLineMachine(RuleBasedStateMachine):
    """Random traffic against a model of who is where."""

    @initialize(preemptible=st.booleans(), max_waiting=st.integers(0, 6), slots=st.integers(1, 5))
    def start(self, preemptible: bool, max_waiting: int, slots: int) -> None:
        self.clock = SimClock()
        self.rules = machine_rules(preemptible, max_waiting)
        self.line = FairLine(self.rules, self.clock)
        self.line.set_slots(slots)
        self.where: dict[int, str] = {}
        self.callers: dict[int, Caller] = {}
        self.fresh: set[int] = set()
        self.barred: set[Lane] = set()

    def those(self, *where: str) -> list[int]:
        return [ticket for ticket, place in self.where.items() if place in where]

    def keyed(self, caller: Caller) -> list[int]:
        """Tickets of the caller's key that have not run yet."""
        who = caller.principal
        return [
            one
            for one in self.fresh
            if self.callers[one].principal.tenant == who.tenant
            and self.callers[one].principal.key == who.key
        ]

    @rule(caller=st.sampled_from(CALLERS), count=st.integers(1, 3))
    def enter(self, caller: Caller, count: int) -> None:
        slots, shared = self.line.slots, self.rules.max_waiting
        key = self.keyed(caller)
        own = [one for one in key if self.callers[one].client == caller.client]
        free = max(0, slots - self.line.running)
        at_once = len(self.fresh) + count <= slots - self.line.running
        room = len(self.fresh) + count <= free + shared
        names = {(one.principal.tenant, one.principal.key) for one in self.those_callers()}
        keys = len(names | {(caller.principal.tenant, caller.principal.key)})
        own_place = not key or len(key) + count <= max(1, shared // keys)
        own_place |= not own and len(key) + count <= self.rules.places_of_a_key()
        room |= count <= slots + shared and own_place
        promised = len(self.line._promises)
        tickets, refused = self.entering(caller, count)
        if refused is not None:
            assert not at_once
            assert promised or not room
            assert refused.kind is ErrorKind.RATE_LIMITED
            assert 1 <= (refused.retry_after or 0) <= 60
            return
        assert room or promised
        for ticket in tickets:
            assert ticket not in self.callers
            self.where[ticket], self.callers[ticket] = "preparing", caller
            self.fresh.add(ticket)

    def entering(self, caller: Caller, count: int) -> tuple[tuple[int, ...], LmxError | None]:
        try:
            return self.line.enter_many(count, caller), None
        except LmxError as refused:
            return (), refused

    def those_callers(self) -> list[Caller]:
        """Whose tickets there are."""
        return [self.callers[ticket] for ticket in self.where]

    @precondition(lambda self: self.those("preparing", "ready", "running"))
    @rule(data=st.data(), work=WORK)
    def mark_ready(self, data: st.DataObject, work: Work) -> None:
        ticket = data.draw(st.sampled_from(self.those("preparing", "ready", "running")))
        self.line.mark_ready(ticket, work)
        if self.where[ticket] == "preparing":
            self.where[ticket] = "ready"

    @rule()
    def grant(self) -> None:
        ticket = self.line.grant()
        if ticket is None:
            return
        assert self.where[ticket] == "ready"
        assert self.callers[ticket].lane not in self.barred
        self.where[ticket] = "running"
        self.fresh.discard(ticket)
        assert self.line.running <= self.line.slots
        self.caps_hold(self.callers[ticket])

    def caps_hold(self, caller: Caller) -> None:
        held = [self.callers[one] for one in self.those("running", "yielding")]
        lane = self.rules.lanes[caller.lane]
        of_lane = sum(1 for one in held if one.lane is caller.lane)
        assert of_lane <= min(max(1, self.line.slots - lane.spare), lane.max_running or 99)
        of_key = sum(1 for one in held if one.principal == caller.principal)
        assert of_key <= (caller.principal.max_running or 99)
        same = (caller.principal, caller.client)
        of_client = sum(1 for one in held if (one.principal, one.client) == same)
        assert of_client <= 3
        if not self.rules.preemptible:
            assert of_client <= max(1, self.line.slots - self.rules.reserve)

    @precondition(lambda self: not self.those("yielding"))
    @rule()
    def nobody_who_could_run_is_left_waiting(self) -> None:
        while (ticket := self.line.grant()) is not None:
            self.where[ticket] = "running"
            self.fresh.discard(ticket)
        ready = [one for one in self.those("ready") if self.callers[one].lane not in self.barred]
        if ready and not self.those("running"):
            raise AssertionError("a free machine leaves somebody waiting")

    @rule(tokens=st.integers(0, 30), data=st.data())
    @precondition(lambda self: self.where)
    def charge(self, tokens: int, data: st.DataObject) -> None:
        self.line.charge(data.draw(st.sampled_from(list(self.where))), tokens)

    @rule()
    def preempt(self) -> None:
        ticket = self.line.preempt()
        if ticket is not None:
            assert self.rules.preemptible
            assert self.where[ticket] == "running"
            assert self.line.running >= self.line.slots
            self.where[ticket] = "yielding"

    @precondition(lambda self: self.those("running", "yielding"))
    @rule(data=st.data())
    def yielded(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.those("running", "yielding")))
        self.line.yielded(ticket)
        self.line.yielded(ticket)
        self.where[ticket] = "ready"

    @precondition(lambda self: self.those("running", "yielding"))
    @rule(data=st.data(), finished=st.booleans())
    def release(self, data: st.DataObject, finished: bool) -> None:
        ticket = data.draw(st.sampled_from(self.those("running", "yielding")))
        self.line.leave(ticket)
        self.line.release(ticket, finished=finished)
        self.line.release(ticket, finished=finished)
        del self.where[ticket]

    @precondition(lambda self: self.those("preparing", "ready"))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.those("preparing", "ready")))
        self.line.release(ticket)
        self.line.leave(ticket)
        self.line.leave(ticket)
        del self.where[ticket]
        self.fresh.discard(ticket)

    @precondition(lambda self: self.those("preparing", "ready"))
    @rule(data=st.data())
    def time_is_up(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.those("preparing", "ready")))
        told = self.line.give_up(ticket)
        assert 1 <= told <= 60
        assert self.line.give_up(ticket) == told
        self.line.leave(ticket)
        del self.where[ticket]
        self.fresh.discard(ticket)

    @rule(lane=st.sampled_from(Lane), kept=st.booleans())
    def pause(self, lane: Lane, kept: bool) -> None:
        for ticket in self.line.pause(lane, lambda _: kept):
            assert self.rules.preemptible
            assert self.where[ticket] == "running"
            assert self.callers[ticket].lane is lane
            self.where[ticket] = "yielding"

    @rule(lane=st.sampled_from(Lane), barred=st.booleans())
    def bar(self, lane: Lane, barred: bool) -> None:
        self.line.bar(lane, barred=barred)
        (self.barred.add if barred else self.barred.discard)(lane)

    @rule(slots=st.integers(0, 6), limit=st.none() | st.integers(0, 6))
    def resize(self, slots: int, limit: int | None) -> None:
        self.line.set_slots(slots)
        self.line.set_limit(limit)
        assert self.line.slots >= 1

    @rule(seconds=st.floats(0, 40))
    def time_passes(self, seconds: float) -> None:
        self.clock.time += seconds

    @rule(number=st.integers(-5, 10_000))
    def strangers_change_nothing(self, number: int) -> None:
        if number not in self.where:
            self.line.mark_ready(number, Work(10))
            self.line.charge(number, 5)
            self.line.yielded(number)
            self.line.release(number)
            self.line.leave(number)

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "line"):
            return
        held = self.those("running", "yielding")
        assert self.line.running == len(held)
        assert self.line.waiting == len(self.where) - len(held)
        depths = self.line.depths()
        assert sum(depth.waiting for depth in depths) == self.line.waiting
        assert sum(depth.running for depth in depths) == self.line.running
        assert all(depth.waiting + depth.running > 0 for depth in depths)

    @invariant()
    def the_tree_agrees(self) -> None:
        if not hasattr(self, "line"):
            return
        held = self.those("running", "yielding")
        ready, yielding = self.those("ready"), self.those("yielding")
        order = self.line._order
        assert sum(state.share.ready for state in order.lanes) == len(ready)
        assert sum(state.share.running for state in order.lanes) == len(held)
        claims = sum(state.share.claims for state in order.lanes)
        assert claims == len(held) - len(yielding) + len(order._promises)
        check_share(order.root)
        assert self.line._places.waiting == len(self.fresh)

    @invariant()
    def estimates_are_sound(self) -> None:
        if not hasattr(self, "line"):
            return
        for ticket in self.where:
            position = self.line.position(ticket)
            assert 0 <= position.ahead <= len(self.where)
            assert 0 <= position.estimate_s < float("inf")

    def teardown(self) -> None:
        """When all have gone, nothing is left behind but what is remembered of some clients."""
        if not hasattr(self, "line"):
            return
        for ticket in list(self.where):
            self.line.release(ticket)
            self.line.leave(ticket)
        assert (self.line.waiting, self.line.running) == (0, 0)
        assert self.line.depths() == ()
        assert not self.line._places._keys
        assert not self.line._places._clients
        assert self.line._order.root.ahead == pytest.approx(0.0, abs=1e-6)
        for state in self.line._order.lanes:
            for tenant in state.share.children.values():
                assert all(len(key.children) <= 2 for key in tenant.children.values())


def check_share(share: Share) -> None:
    """Counts of a counter are those of all below it; nobody's service is negative."""
    children = list(share.children.values())
    assert set(share.active) == {name for name, one in share.children.items() if one.ready}
    if children:
        if share.parent is not None:
            assert share.ready == sum(child.ready for child in children)
            assert share.running == sum(child.running for child in children)
            assert share.claims >= 0
        assert share.backlog == pytest.approx(
            sum(child.backlog for child in children) if share.parent else 0.0, abs=1e-6
        )
    else:
        assert share.ready == len(share.queue)
        assert [one.order for one in share.queue] == sorted(one.order for one in share.queue)
    assert share.used >= -1e-6
    assert share.ahead >= -1e-6
    for child in children:
        check_share(child)


FairLineMachine.TestCase.settings = settings(
    max_examples=120, stateful_step_count=60, deadline=None
)
TestFairLine = FairLineMachine.TestCase
