"""Whatever happens in whatever order: reuse is exact, tenants apart, bounds kept, nobody stuck."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from opta_lmx.engine.prefix import CachePlan, CacheRules, PrefixIndex
from tests.support.states import HandClock, StateKeeper

ALPHABET = 3
BASE = (0, 1, 2, 2, 1, 0, 0, 2, 1, 1, 0, 2, 0, 1, 2, 1)
ids = st.lists(st.integers(0, ALPHABET - 1), min_size=0, max_size=12)
salts = st.sampled_from(["a", "a", "a", "b"])
sessions = st.sampled_from([None, "x", "y"])


def small_rules(trimmable: bool, disk: bool) -> CacheRules:
    """Everything happens at lengths of a few tokens."""
    return CacheRules(
        budget_bytes=1_600,
        trimmable=trimmable,
        bytes_per_token=10,
        fixed_bytes=20,
        disk_bytes=1_200 if disk else 0,
        prefill_rate=10.0,
        disk_rate=1e6,
        min_tokens=4,
        min_gain=2,
        lead_tokens=4,
        first_step=3,
        stride=16,
        tail_slack=1,
        spill_min_s=0.5,
        spill_after_s=0.0,
        sessions=3,
        follow_limit_s=30.0,
    )


class Cache(RuleBasedStateMachine):
    """Requests wait, begin, start, keep, end; files move; workers die; clocks go on."""

    @initialize(trimmable=st.booleans(), disk=st.sampled_from([True, True, False]))
    def make(self, trimmable: bool, disk: bool) -> None:
        self.rules = small_rules(trimmable, disk)
        self.clock = HandClock()
        self.index = PrefixIndex(self.rules, self.clock, "model")
        self.keeper = StateKeeper(self.index, self.rules)
        self.tickets = 0
        self.asked: dict[int, tuple[list[int], list[int], str, str | None]] = {}
        self.waiting: set[int] = set()
        self.begun: dict[int, CachePlan] = {}
        self.running: dict[int, CachePlan] = {}
        self.kept: dict[int, set[int]] = {}
        self.history: list[list[int]] = [list(BASE), [*BASE, 1, 2]]

    def obey(self) -> None:
        self.keeper.obey(self.index.take_orders())

    def consider(self, ticket: int) -> None:
        """Plan a request and let it wait or begin, as the one who calls the index would."""
        plan = self.index.plan(*self.asked[ticket])
        if plan.waits and self.index.follow(ticket, plan):
            self.waiting.add(ticket)
            self.obey()
            return
        assert self.index.begin(ticket, plan)
        self.obey()
        self.keeper.begin(ticket, plan)
        self.begun[ticket] = plan
        self.kept[ticket] = set()

    def wake(self) -> None:
        for ticket in self.index.woken():
            assert ticket in self.waiting
            self.waiting.discard(ticket)
            self.consider(ticket)
        self.obey()

    @rule(data=st.data(), more=ids, salt=salts, session=sessions)
    def ask(self, data: st.DataObject, more: list[int], salt: str, session: str | None) -> None:
        self.new_request(data, more, salt, session)

    @rule(data=st.data(), more=ids, salt=salts, session=sessions, answer=ids)
    def whole_request(
        self,
        data: st.DataObject,
        more: list[int],
        salt: str,
        session: str | None,
        answer: list[int],
    ) -> None:
        """Everything goes as it should, from the question to the end of the answer."""
        ticket = self.new_request(data, more, salt, session)
        plan = self.begun.pop(ticket, None)
        if plan is None:
            return
        self.keeper.start(ticket, plan)
        self.obey()
        for keep in plan.keep:
            self.keeper.keep(plan, keep.handle)
            self.obey()
        if plan.keep_end:
            self.keeper.keep(plan, plan.keep_end, answer)
        self.history.append(self.asked[ticket][0] + answer)
        self.index.ended(ticket)
        self.obey()
        self.wake()

    def new_request(
        self, data: st.DataObject, more: list[int], salt: str, session: str | None
    ) -> int:
        base = data.draw(st.sampled_from(self.history[-6:]))
        less = data.draw(st.integers(0, 9))
        prompt = (base[: max(0, len(base) - less)] + more)[:40] or [0]
        cuts = data.draw(st.lists(st.integers(0, len(prompt)), max_size=4))
        self.history.append(prompt)
        self.tickets += 1
        self.asked[self.tickets] = (prompt, cuts, salt, session)
        self.consider(self.tickets)
        return self.tickets

    @precondition(lambda self: self.begun)
    @rule(data=st.data(), wrong=st.booleans())
    def start(self, data: st.DataObject, wrong: bool) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.begun)))
        plan = self.running[ticket] = self.begun.pop(ticket)
        if wrong and plan.cached:
            self.keeper.starting.pop(ticket)
            before = self.index.counts.corrections
            self.index.started(ticket, 0)
            assert self.index.counts.corrections == before + 1
        else:
            self.keeper.start(ticket, plan)
        self.obey()

    @precondition(lambda self: self.running)
    @rule(data=st.data(), answer=ids, known=st.booleans())
    def keep(self, data: st.DataObject, answer: list[int], known: bool) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.running)))
        plan = self.running[ticket]
        handles = {keep.handle for keep in plan.keep} | ({plan.keep_end} - {0})
        left = sorted(handles - self.kept[ticket])
        if not left:
            return
        handle = data.draw(st.sampled_from(left))
        self.kept[ticket].add(handle)
        if data.draw(st.booleans()):
            end = handle == plan.keep_end
            self.keeper.keep(plan, handle, answer if end else (), known=known)
        else:
            self.index.lost([handle])
        self.obey()
        self.wake()

    @precondition(lambda self: self.running or self.begun or self.waiting)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        tickets = sorted([*self.running, *self.begun, *self.waiting])
        ticket = data.draw(st.sampled_from(tickets))
        self.running.pop(ticket, None)
        self.begun.pop(ticket, None)
        self.waiting.discard(ticket)
        self.keeper.starting.pop(ticket, None)
        self.index.ended(ticket)
        self.obey()
        self.wake()

    @precondition(lambda self: self.keeper.moving)
    @rule(done=st.booleans())
    def move(self, done: bool) -> None:
        self.keeper.move(done)
        self.obey()
        self.wake()

    @precondition(lambda self: set(self.keeper.states) - set(self.keeper.starting.values()))
    @rule(data=st.data())
    def worker_forgets(self, data: st.DataObject) -> None:
        free = set(self.keeper.states) - set(self.keeper.starting.values())
        handle = data.draw(st.sampled_from(sorted(free)))
        del self.keeper.states[handle]
        self.index.lost([handle])
        self.obey()
        self.wake()

    @rule(everything=st.booleans(), seconds=st.floats(0, 20))
    def time_passes(self, everything: bool, seconds: float) -> None:
        self.clock.now += seconds
        self.index.settle(everything)
        self.obey()
        self.wake()

    @rule()
    def worker_dies(self) -> None:
        self.keeper.states.clear()
        self.keeper.starting.clear()
        self.keeper.moving.clear()
        self.begun.clear()
        self.running.clear()
        self.index.clear()
        self.obey()
        self.wake()

    @invariant()
    def books_agree(self) -> None:
        if not hasattr(self, "index"):
            return
        memory = [entry for entry in self.index.entries if entry.handle]
        assert sum(entry.size for entry in memory) == self.index.memory_bytes
        assert self.index.memory_bytes <= self.rules.budget_bytes
        leaving = sum(entry.size for entry in memory if entry.leaving)
        assert leaving == self.index._shelf._leaving <= self.rules.leaving_bytes
        filed = [entry.filed for entry in self.index.entries if entry.name]
        assert sum(filed) == self.index.disk_bytes <= self.rules.disk_bytes
        stored = {entry.handle for entry in memory if entry.moving != "load"}
        assert stored == set(self.keeper.states)
        files = {entry.name for entry in self.index.entries if entry.name and not entry.moving}
        assert files <= set(self.keeper.files)
        for handle in self.keeper.starting.values():
            assert handle in stored

    @invariant()
    def nobody_is_stuck(self) -> None:
        """Who waits, waits for something that will come, and has a deadline."""
        if not hasattr(self, "index"):
            return
        deadline = self.index.next_deadline()
        assert (deadline is not None) == bool(self.waiting)
        if deadline is not None:
            assert deadline <= self.clock.now + self.rules.follow_limit_s
        loading = {entry.handle for entry in self.index.entries if entry.moving == "load"}
        for handle in self.index._followers.awaited().values():
            assert handle in loading or self.index._flights.expects(handle)

    def teardown(self) -> None:
        """All that still waits gets on with its work in bounded time; then nothing is reserved."""
        if not hasattr(self, "index"):
            return
        for _ in range(len(self.waiting) + 1):
            self.clock.now += self.rules.follow_limit_s
            self.wake()
        assert not self.waiting
        for ticket in [*self.begun, *self.running]:
            self.keeper.starting.pop(ticket, None)
            self.index.ended(ticket)
        self.obey()
        while self.keeper.moving:
            self.keeper.move()
            self.obey()
        self.books_agree()
        assert self.index.idle()
        assert set(self.keeper.files) == {entry.name for entry in self.index.entries if entry.name}


TestCache = Cache.TestCase
TestCache.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)


def test_a_ticket_begins_once() -> None:
    index = PrefixIndex(small_rules(trimmable=True, disk=False), HandClock())
    plan = index.plan([1, 2, 3], [], "a")
    assert index.begin(1, plan)
    with pytest.raises(ValueError, match="in flight"):
        index.begin(1, plan)
