"""A line whose rows share too little memory: who waits, who may pass, who gives way."""

from typing import Any

import pytest

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.kv_cost import KvCost
from opta_lmx.core.principal import Budgets, Caller, Lane, Principal
from opta_lmx.scheduling.fair_line import FairLine
from opta_lmx.scheduling.kv import GRAIN
from opta_lmx.scheduling.room import Room
from opta_lmx.scheduling.rules import LaneRule, LineRules, Pausing, Work
from tests.support.clocks import HandClock

COST = KvCost(((10, 0),))
RULES = LineRules(
    max_waiting=1000,
    quantum=0.0,
    reserve=0,
    lanes=(LaneRule(8.0, patience_s=0.0), LaneRule(4.0, patience_s=0.0), LaneRule(1.0)),
    pausing=Pausing(slice_tokens=None, progress_tokens=1, calm_s=0.0),
)


def caller(key: str, *, cap: int | None = None, lane: Lane = Lane.INTERACTIVE) -> Caller:
    return Caller(Principal(key=key, budgets=Budgets(kv_bytes=cap)), "", lane)


def line(budget: int, *, slots: int = 4, pauses: bool = False, cost: KvCost = COST) -> FairLine:
    made = FairLine(RULES, HandClock())
    made.set_slots(slots)
    made.set_preemptible(pauses)
    made.set_room(cost, budget)
    return made


def ask(at: FairLine, who: Caller, prompt: int, most: int = 10, *, pausable: bool = True) -> int:
    number = at.enter(who)
    at.mark_ready(number, Work(prompt, 0, most, pausable))
    return number


def granted(at: FairLine) -> list[int]:
    return [number for number in iter(at.grant, None) if number is not None]


def test_without_bounds_the_slots_alone_decide() -> None:
    for budget in (0, 10**9):
        at = line(budget, slots=2)
        first, second, _ = (ask(at, caller("a"), 10**4) for _ in range(3))
        assert granted(at) == [first, second]


def test_one_that_does_not_fit_waits_and_others_use_what_is_left_beside_it() -> None:
    at = line(1000)
    old = ask(at, caller("a"), 70)  # 800 bytes
    assert granted(at) == [old]
    big = ask(at, caller("b"), 50)  # 600
    small = ask(at, caller("c"), 5)  # 150, beside the big one 750
    assert granted(at) == [small]
    greedy = ask(at, caller("d"), 0, 11)  # 110 would fit now, and beside the big one
    at.release(small)
    assert granted(at) == [greedy]
    at.release(old)
    assert granted(at) == [big]


def test_nobody_takes_what_one_held_back_waits_for() -> None:
    at = line(1000)
    old = ask(at, caller("a"), 50)  # 600
    assert granted(at) == [old]
    big = ask(at, caller("b"), 70)  # 800: waits for the old one
    many = [ask(at, caller(f"c{n}"), 5) for n in range(4)]  # 150 each
    assert granted(at) == [many[0]]  # a second one would leave 700 to the big one
    at.release(old)
    assert granted(at) == [big]


def test_a_slot_is_left_too() -> None:
    at = line(1000, slots=2)
    old = ask(at, caller("a"), 50)
    assert granted(at) == [old]
    big = ask(at, caller("b"), 80)  # 900
    first, second = (ask(at, caller(f"c{n}"), 0, 4) for n in range(2))  # 40 each
    assert granted(at) == [first]
    at.release(first)
    assert granted(at) == [second]
    at.release(old)
    assert granted(at) == [big]


def test_later_requests_of_the_same_client_may_pass_too() -> None:
    at = line(1000)
    old, big, small = (ask(at, caller("a"), tokens) for tokens in (70, 60, 5))
    assert granted(at) == [old, small]
    at.release(old)
    assert granted(at) == [big]


@pytest.mark.parametrize("leaves", ["leave", "release"])
def test_who_waits_no_longer_holds_nobody_back(leaves: str) -> None:
    at = line(1000)
    old = ask(at, caller("a"), 70)
    assert granted(at) == [old]
    big = ask(at, caller("b"), 80)
    small = ask(at, caller("c"), 5)  # 150; beside the big one there are 100
    assert granted(at) == []
    if leaves == "leave":
        at.leave(big)
        assert granted(at) == [small]
    else:
        at.release(old)
        assert granted(at) == [big]


def flood(at: FairLine, big: int, running: list[int], turns: int) -> int:
    """Short requests come and go without end; after how many of them the big one runs."""
    for n in range(20):
        ask(at, caller(f"short-{n}"), 20)
    for turn in range(turns):
        ask(at, caller(f"short-{turn % 20}"), 20)
        for number in granted(at):
            if number == big:
                return turn
            running.append(number)
        at.release(running.pop(0))
    return turns


def test_an_endless_flood_of_short_ones_does_not_starve_a_long_one() -> None:
    at = line(1000)
    for _ in range(3):
        ask(at, caller("short"), 20)  # 300 bytes each
    running = granted(at)
    assert len(running) == 3
    big = ask(at, caller("long"), 90)  # 1000: the whole of it
    for number in running:
        assert granted(at) == []
        ask(at, caller("other"), 20)
        at.release(number)
    assert granted(at) == [big]


def test_without_the_rule_it_would_starve(monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> int:
        at = line(1000)
        for n in range(3):
            ask(at, caller(f"first-{n}"), 20)
        running = granted(at)
        return flood(at, ask(at, caller("long"), 90), running, 200)

    assert run() == 3
    monkeypatch.setattr(
        "opta_lmx.scheduling.room.Room.passes",
        lambda self, ticket, back, rows, slots: ticket not in back and self.fits(ticket),
    )
    assert run() == 200


# --- keys


def test_a_full_key_waits_and_holds_no_other_back() -> None:
    at = line(10_000)
    capped = caller("a", cap=500)
    first, second = (ask(at, capped, 20) for _ in range(2))  # 300 each
    other = ask(at, caller("b"), 20)
    assert granted(at) == [first, other]
    at.release(first)
    assert granted(at) == [second]


def test_within_a_key_a_long_one_is_not_starved_by_short_ones() -> None:
    at = line(100_000)
    who = [Caller(caller("a", cap=500).principal, f"bot-{n}") for n in range(5)]
    first = ask(at, who[0], 20)  # 300
    assert granted(at) == [first]
    long = ask(at, who[1], 40)  # 500
    shorts = [ask(at, one, 5) for one in who[2:]]  # 150
    assert granted(at) == []
    at.release(first)
    assert granted(at) == [long]
    at.release(long)
    assert granted(at) == shorts


def test_what_never_fits_below_a_keys_cap_is_refused_with_numbers() -> None:
    at = line(10_000)
    assert at.room is not None
    who = caller("a", cap=500).principal
    assert at.room.answer_room(caller("b").principal, 5000, "prompt") is None
    assert at.room.answer_room(who, 49, "messages") == 1
    with pytest.raises(LmxError) as refused:
        at.room.answer_room(who, 50, "messages")
    error = refused.value
    assert (error.kind, error.code, error.param) == (
        ErrorKind.INVALID_REQUEST,
        "cache_budget_exceeded",
        "messages",
    )
    assert error.message == (
        "The prompt has 50 tokens, whose caches take 510 bytes; this key allows 500: "
        "room for 50 tokens, answer included."
    )


# --- growing


def test_who_cannot_pause_has_all_from_the_start() -> None:
    for at in (line(10_000), line(10_000, pauses=True, cost=KvCost(((10, 0),), whole=True))):
        ask(at, caller("a"), 100, 700)
        at.grant()
        assert at.levels.reserved == 8000
    at = line(10_000, pauses=True)
    ask(at, caller("a"), 100, 700, pausable=False)
    at.grant()
    assert at.levels.reserved == 8000


def test_when_a_row_outgrows_the_memory_the_last_comer_gives_way() -> None:
    at = line(10_500, pauses=True)
    old, young = (ask(at, caller(key), 10, 1000) for key in "ab")  # 522 tokens each
    assert granted(at) == [old, young]
    for _ in range(512 - GRAIN + 8):
        at.charge(old, 1)
        at.charge(young, 1)
    assert at.cramped
    assert at.preempt() == young
    assert at.preempt() is None
    at.yielded(young)
    assert not at.cramped
    assert granted(at) == []  # what it has by now does not fit beside the other
    at.charge(old, 500)
    at.release(old)
    assert granted(at) == [young]


def test_lower_lanes_give_way_first() -> None:
    at = line(10_500, pauses=True)
    low = ask(at, caller("a", lane=Lane.BACKGROUND), 10, 1000)
    assert granted(at) == [low]
    high = ask(at, caller("b"), 10, 1000)
    assert granted(at) == [high]
    at.charge(high, 512)
    assert at.cramped
    assert at.preempt() == low


def test_nobody_is_let_in_while_a_row_is_short() -> None:
    at = line(10_500, pauses=True)
    old, young = (ask(at, caller(key), 10, 1000) for key in "ab")
    granted(at)
    at.charge(old, 500)
    assert at.cramped
    tiny = ask(at, caller("c"), 1, 1)
    assert granted(at) == []
    assert at.preempt() == young
    at.yielded(young)
    assert granted(at)[0] in (tiny, young)


def test_memory_held_by_a_hog_is_taken_back_for_who_waits() -> None:
    at = line(1000, slots=8, pauses=True)
    hogs = [ask(at, caller("hog"), 20) for _ in range(3)]  # 300 each
    assert granted(at) == hogs
    victim = ask(at, caller("victim"), 40)  # 500
    assert granted(at) == []
    assert at.preempt() == hogs[2]
    assert at.preempt() is None
    at.yielded(hogs[2])
    assert granted(at) == []
    assert at.preempt() == hogs[1]
    at.yielded(hogs[1])
    assert granted(at)[0] == victim


def test_nobody_is_paused_in_vain() -> None:
    at = line(1000, slots=8, pauses=True)
    mine = ask(at, caller("victim"), 50)  # 600
    hogs = [ask(at, caller("hog"), 5) for _ in range(2)]  # 150 each
    assert sorted(granted(at)) == sorted([mine, *hogs])
    ask(at, caller("victim"), 80)  # 900: too much beside its own
    assert granted(at) == []
    assert at.preempt() is None


def test_a_paused_row_goes_on_while_another_key_waits_for_its_own_cap() -> None:
    at = line(10**6, pauses=True)
    paused = ask(at, caller("a"), 2000, 800)
    assert granted(at) == [paused]
    at.charge(paused, 300)  # so the other key would be first
    full = caller("b", cap=5000)
    running = ask(at, full, 300, 100)
    assert granted(at) == [running]
    waiting = ask(at, full, 300, 100)
    at.yielded(paused)
    assert granted(at) == [paused]
    at.release(running)
    assert granted(at) == [waiting]


def test_who_waits_for_the_cap_of_a_key_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    at = line(10**6)
    full = caller("a", cap=1000)
    running = ask(at, full, 60)
    assert granted(at) == [running]
    for _ in range(100):
        ask(at, full, 40)
    looked = 0
    passes = Room.passes

    def counted(room: Room, *args: Any) -> bool:
        nonlocal looked
        looked += 1
        return passes(room, *args)

    monkeypatch.setattr(Room, "passes", counted)
    assert granted(at) == []
    assert looked <= 100


def test_a_row_that_does_not_yield_is_left_alone_and_another_is_asked() -> None:
    at = line(0, slots=2, pauses=True)
    rows = [ask(at, caller("a", lane=Lane.BACKGROUND), 1, 10**6) for _ in range(2)]
    assert granted(at) == rows
    for row in rows:
        at.charge(row, 10)
    waiting = ask(at, caller("b"), 1)
    deaf = at.preempt()
    assert deaf in rows
    at.charge(deaf, 64)
    assert at.preempt() is None
    at.charge(deaf, 1)
    other = at.preempt()
    assert other in rows
    assert other != deaf
    at.yielded(other)
    assert granted(at) == [waiting]
