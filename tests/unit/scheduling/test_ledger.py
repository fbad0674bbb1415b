"""The memory ledger: no more is promised than there is, and only idle models make room."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.scheduling.ledger import MemoryLedger, MemoryLine, MemoryNeed, Residency

GB = 10**9


def need(size: int, load_s: float = 1.0) -> MemoryNeed:
    return MemoryNeed(size, load_s=load_s)


def holding(budget: int, *models: tuple[str, int, float, float]) -> MemoryLedger:
    """A ledger with ready models: name, bytes, seconds to load, last use."""
    ledger = MemoryLedger(budget)
    for name, size, load_s, used_at in models:
        assert ledger.admit(name, need(size, load_s), used_at) == ()
        ledger.loaded(name, size, used_at)
    return ledger


def test_what_a_model_needs_is_all_of_it() -> None:
    assert MemoryNeed(weights=5, kv=3, peak=2).total == 10


def test_who_has_been_idle_longest_goes_first() -> None:
    ledger = holding(100, ("old", 40, 1, 0), ("new", 40, 1, 50))
    assert ledger.admit("next", need(50), 100) == ("old",)
    assert ledger.free == 10


def test_what_is_slow_to_load_again_stays_longer() -> None:
    ledger = holding(100, ("slow", 40, 60, 0), ("quick", 40, 2, 80))
    assert ledger.admit("next", need(50), 100) == ("quick",)


def test_nobody_is_evicted_in_vain() -> None:
    ledger = holding(100, ("small", 10, 1, 0), ("large", 70, 1, 50))
    assert ledger.admit("next", need(80), 100) == ("large",)
    ledger = holding(100, ("a", 30, 1, 0), ("b", 30, 1, 1), ("c", 30, 1, 2))
    assert ledger.admit("next", need(60), 100) == ("a", "b")
    ledger = holding(100, ("a", 30, 1, 0))
    assert ledger.admit("next", need(70), 100) == ()


def test_busy_pinned_and_loading_models_are_never_evicted() -> None:
    ledger = holding(100, ("busy", 30, 1, 0), ("pinned", 20, 1, 0))
    ledger.use("busy", 1, 1)
    ledger.pinned.add("pinned")
    assert ledger.admit("loading", need(30), 2) == ()
    with pytest.raises(LmxError) as refused:
        ledger.admit("next", need(40), 100)
    error = refused.value
    assert (error.kind, error.code) == (ErrorKind.UNAVAILABLE, "memory_busy")
    assert error.message == (
        "Model 'next' needs 40 bytes of memory; 20 bytes of 100 bytes are free and idle models "
        "could free 0 bytes. In use: busy, pinned, loading."
    )
    assert error.retry_after is not None
    assert "next" not in ledger
    ledger.use("busy", 0, 5)
    assert ledger.admit("next", need(40), 100) == ("busy",)


def test_what_can_never_be_loaded_is_refused_with_numbers() -> None:
    ledger = holding(16 * GB, ("pinned", 10 * GB, 1, 0), ("idle", 4 * GB, 1, 0))
    ledger.pinned.add("pinned")
    with pytest.raises(LmxError) as refused:
        ledger.admit("next", need(7 * GB + GB // 2), 1)
    error = refused.value
    assert (error.kind, error.code) == (ErrorKind.INSUFFICIENT_RESOURCES, "model_too_large")
    assert error.message == (
        "Model 'next' needs 7.5 GB of memory; the budget is 16.0 GB, of which pinned models hold "
        "10.0 GB."
    )
    with pytest.raises(LmxError, match=r"needs 16\.0 GB of memory; the budget is 2\.0 MB\.$"):
        MemoryLedger(2_000_000).admit("next", need(16 * GB), 1)
    assert [line.model for line in ledger.lines(1)] == ["pinned", "idle"]


def test_loading_waits_for_those_that_leave() -> None:
    ledger = holding(100, ("a", 60, 1, 0))
    assert ledger.admit("b", need(50), 10) == ("a",)
    assert not ledger.may_load()
    assert "a" not in ledger
    ledger.gone("a")
    assert ledger.may_load()
    ledger.loaded("b", 55, 12)
    assert ledger.free == 45
    assert ledger.lines(20) == [MemoryLine("b", Residency.READY, 55, True, 0, False, 8, 50)]


def test_a_model_that_comes_back_while_it_leaves() -> None:
    ledger = holding(100, ("a", 60, 1, 0))
    assert ledger.evict("a")
    assert not ledger.evict("a")
    assert ledger.admit("a", need(60), 1) == ()
    assert not ledger.may_load()
    ledger.gone("a")
    assert ledger.may_load()
    assert "a" in ledger
    ledger.gone("a")
    assert "a" not in ledger
    assert ledger.free == 100


def test_a_load_that_failed_leaves_nothing() -> None:
    ledger = MemoryLedger(100)
    ledger.admit("a", need(60), 0)
    assert ledger.loading
    ledger.gone("a")
    ledger.gone("a")
    ledger.loaded("a", 60, 0)
    assert (ledger.free, ledger.loading) == (100, False)


def test_an_estimate_that_was_too_small_is_made_up_for() -> None:
    ledger = holding(100, ("a", 40, 1, 0), ("b", 30, 1, 1))
    assert ledger.overdraft(2) == ()
    ledger.admit("c", need(20), 2)
    ledger.loaded("c", 45, 3)
    assert ledger.free == -15
    ledger.use("c", 1, 4)
    assert ledger.overdraft(5) == ("a",)
    assert ledger.free == 25
    ledger.loaded("c", 140, 6)
    assert ledger.overdraft(7) == ()  # without b too it would be too much
    ledger.use("c", 0, 8)
    assert ledger.overdraft(9) == ("c",)


def test_a_model_that_takes_more_than_there_is_stays_while_it_is_alone() -> None:
    ledger = holding(100, ("a", 99, 1, 0))
    ledger.loaded("a", 101, 1)
    assert ledger.overdraft(2) == ()
    assert ledger.admit("b", need(1), 3) == ("a",)


def test_what_nobody_asked_for_makes_room_while_it_is_loaded() -> None:
    ledger = MemoryLedger(100)
    assert ledger.admit("ahead", need(60), 0, asked=False) == ()
    assert ledger.expired(50, lambda _: 1.0) == ()  # its time begins when it is there
    assert ledger.admit("other", need(30), 51) == ()
    assert ledger.admit("next", need(60), 52) == ("ahead",)
    assert ledger.loading
    ledger.gone("ahead")
    with pytest.raises(LmxError):
        ledger.admit("last", need(60), 53)  # nobody loads these in vain


def test_a_load_that_somebody_has_joined_goes_on() -> None:
    ledger = MemoryLedger(100)
    ledger.admit("ahead", need(60), 0, asked=False)
    ledger.use("ahead", 1, 0)
    with pytest.raises(LmxError, match="In use: ahead"):
        ledger.admit("next", need(60), 1)
    ledger.use("ahead", 0, 1)
    ledger.asked("ahead")
    ledger.asked("nobody")
    with pytest.raises(LmxError, match="In use: ahead"):
        ledger.admit("next", need(60), 2)


def test_what_was_reserved_is_given_back() -> None:
    ledger = holding(100, ("a", 60, 1, 0))
    assert ledger.evict("a")
    ledger.admit("a", need(60), 1, asked=False)
    assert not ledger.may_load()
    ledger.withdraw("a")
    ledger.withdraw("nobody")
    assert ledger.free == 100
    assert [line.state for line in ledger.lines(2)] == [Residency.LEAVING]
    ledger.gone("a")
    ledger = holding(100, ("b", 60, 1, 0))
    ledger.withdraw("b")  # it is there
    assert "b" in ledger


def test_a_model_was_last_used_when_it_came_up() -> None:
    ledger = MemoryLedger(100)
    ledger.admit("a", need(60), 1)
    ledger.loaded("a", 60, 9)
    assert ledger.last_use("a") == 9
    ledger.use("a", 0, 11)
    assert ledger.last_use("a") == 11
    assert ledger.last_use("nobody") is None


def test_only_what_is_idle_for_too_long_expires() -> None:
    ledger = holding(100, ("a", 10, 1, 0), ("b", 10, 1, 5), ("c", 10, 1, 0), ("d", 10, 1, 0))
    ledger.pinned.add("c")
    ledger.use("d", 1, 0)

    def ten(_: str) -> float:
        return 10.0

    assert ledger.expired(10, ten) == ()
    assert ledger.expired(10.5, ten) == ("a",)
    assert ledger.expired(20, ten) == ("a", "b")
    ledger.use("d", 0, 20)
    assert ledger.expired(30.5, ten) == ("a", "b", "d")
    assert ledger.evict("c") is False


def test_only_those_that_may_go_are_asked_to() -> None:
    ledger = holding(100, ("a", 40, 1, 0), ("b", 40, 1, 6))
    asked: dict[str, float] = {}

    def spare(name: str, idle_s: float) -> bool:
        asked[name] = idle_s
        return name == "b"

    assert ledger.admit("next", need(50), 10, spare) == ("b",)
    assert asked == {"a": 10, "b": 4}
    assert ledger.admit("next", need(50), 10, spare) == ()


NAMES = tuple("abcdefg")


class LedgerMachine(RuleBasedStateMachine):
    """Random life of models; the machine keeps its own account of who may be touched."""

    BUDGET = 100

    def __init__(self) -> None:
        super().__init__()
        self.ledger = MemoryLedger(self.BUDGET)
        self.now = 0.0
        self.users = dict.fromkeys(NAMES, 0)
        self.loading: dict[str, int] = {}
        self.ahead: set[str] = set()
        self.ready: dict[str, int] = {}
        self.leaving: list[tuple[str, int]] = []

    def take_away(self, names: tuple[str, ...]) -> None:
        for name in names:
            assert name in self.ready or name in self.ahead
            assert not self.users[name]
            assert name not in self.ledger.pinned
            held = self.ready if name in self.ready else self.loading
            self.leaving.append((name, held.pop(name)))

    @rule(
        name=st.sampled_from(NAMES),
        size=st.integers(1, 110),
        load_s=st.floats(0.5, 60),
        asked=st.booleans(),
    )
    def admit(self, name: str, size: int, load_s: float, *, asked: bool) -> None:
        held = {**self.loading, **self.ready}
        known = name in held
        fixed = sum(
            size
            for n, size in held.items()
            if self.users[n]
            or n in self.ledger.pinned
            or (n in self.loading and n not in self.ahead)
        )
        try:
            victims = self.ledger.admit(name, need(size, load_s), self.now, asked=asked)
        except LmxError:
            assert not known
            assert fixed + size > self.BUDGET
            return
        if known:
            assert victims == ()
            return
        assert fixed + size <= self.BUDGET
        freed = {victim: held[victim] for victim in victims}
        self.take_away(victims)
        self.comes(name, size, asked=asked)
        spare = self.BUDGET - sum(self.loading.values()) - sum(self.ready.values())
        assert all(spare - bytes_ < 0 for bytes_ in freed.values())

    def comes(self, name: str, size: int, *, asked: bool = True) -> None:
        self.loading[name] = size
        self.users[name] = 0
        self.ahead -= {name}
        self.ahead |= set() if asked else {name}

    @rule(name=st.sampled_from(NAMES))
    def join(self, name: str) -> None:
        self.ledger.asked(name)
        self.ahead -= {name}

    @rule(name=st.sampled_from(NAMES))
    def give_up(self, name: str) -> None:
        self.ledger.withdraw(name)
        self.loading.pop(name, None)

    @rule(data=st.data(), share=st.floats(0.5, 1.0))
    def finish_loading(self, data: st.DataObject, share: float) -> None:
        if self.loading:
            name = data.draw(st.sampled_from(sorted(self.loading)))
            self.ready[name] = int(self.loading.pop(name) * share)
            self.ledger.loaded(name, self.ready[name], self.now)

    @rule(name=st.sampled_from(NAMES), users=st.integers(0, 2))
    def use(self, name: str, users: int) -> None:
        self.ledger.use(name, users, self.now)
        if name in self.ready or name in self.loading:
            self.users[name] = users

    @rule(name=st.sampled_from(NAMES), size=st.integers(1, 110))
    def load_anew(self, name: str, size: int) -> None:
        old = self.ready.get(name, self.loading.get(name))
        free = self.ledger.free
        try:
            victims = self.ledger.readmit(name, need(size), self.now)
        except LmxError:
            assert self.ledger.free == free
            assert (name in self.ledger) is (old is not None)
            return
        self.take_away(victims)
        if old is not None:
            self.leaving.append((name, old))
            self.ready.pop(name, None)
        self.comes(name, size)

    @rule(name=st.sampled_from(NAMES))
    def unload(self, name: str) -> None:
        self.ledger.leave(name)
        size = self.ready.pop(name, self.loading.pop(name, None))
        if size is not None:
            self.leaving.append((name, size))

    @rule(name=st.sampled_from(NAMES))
    def pin_or_unpin(self, name: str) -> None:
        self.ledger.pinned ^= {name}

    @rule(data=st.data())
    def a_process_ends(self, data: st.DataObject) -> None:
        if self.leaving:
            name, _ = data.draw(st.sampled_from(self.leaving))
            first = next(each for each in self.leaving if each[0] == name)
            self.leaving.remove(first)
            self.ledger.gone(name)

    @rule(pause=st.floats(0, 100), ttl_s=st.floats(1, 100))
    def time_passes(self, pause: float, ttl_s: float) -> None:
        self.now += pause
        for name in self.ledger.expired(self.now, lambda _: ttl_s):
            assert self.ledger.evict(name)
            self.take_away((name,))

    @invariant()
    def books_agree(self) -> None:
        committed = sum(self.loading.values()) + sum(self.ready.values())
        assert self.ledger.committed == committed <= self.BUDGET
        leaving = sum(size for _, size in self.leaving)
        assert self.ledger.may_load() is (not leaving or committed + leaving <= self.BUDGET)
        assert self.ledger.overdraft(self.now) == ()


LedgerMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=50)
TestLedger = LedgerMachine.TestCase
