"""Slots are never given twice, remember prompts, and shared room is never overdrawn."""

from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.backends.frames import Submit
from opta_lmx.backends.gguf.slots import SlotTable, common
from opta_lmx.core.types import SamplingParams


def submit(number: int, ids: tuple[int, ...] = (1,), max_tokens: int = 1) -> Submit:
    return Submit(number, ids, SamplingParams(), max_tokens)


def start(table: SlotTable) -> tuple[int, int, int]:
    started = table.start()
    assert started is not None
    request, slot, cached = started
    return request.id, slot, cached


def test_requests_start_in_order_on_different_slots() -> None:
    table = SlotTable(2, 100)
    for number in (1, 2, 3):
        table.add(submit(number))
    first, second = start(table), start(table)
    assert (first[0], second[0]) == (1, 2)
    assert first[1] != second[1]
    assert table.start() is None
    assert len(table) == 3


def test_slot_that_remembers_most_of_the_prompt_is_chosen() -> None:
    table = SlotTable(3, 100)
    table.add(submit(1, (1, 2, 3)))
    table.add(submit(2, (9, 8)))
    _, long_slot, _ = start(table)
    start(table)
    table.release(1, [4, 5])
    table.release(2, [])
    table.add(submit(3, (1, 2, 3, 4, 7)))
    assert start(table) == (3, long_slot, 4)


def test_unknown_prompt_takes_the_slot_unused_longest() -> None:
    table = SlotTable(2, 100)
    for number in (1, 2):
        table.add(submit(number, (number,)))
    (_, first, _), (_, second, _) = start(table), start(table)
    table.release(2, [])
    table.release(1, [])
    table.add(submit(3, (7,)))
    assert start(table) == (3, second, 0)
    table.add(submit(4, (8,)))
    assert start(table) == (4, first, 0)


def test_request_waits_until_its_part_of_the_cache_is_free() -> None:
    table = SlotTable(4, 100)
    table.add(submit(1, (1,) * 50, 10))
    table.add(submit(2, (2,) * 50, 10))
    table.add(submit(3, (3,), 1))
    assert start(table)[0] == 1
    assert table.start() is None, "2 does not fit, and 3 does not overtake it"
    table.release(1, [])
    assert start(table)[0] == 2
    assert start(table)[0] == 3


def test_request_larger_than_the_cache_starts_alone() -> None:
    table = SlotTable(2, 10)
    table.add(submit(1, (1,) * 50))
    assert start(table)[0] == 1


def test_withdrawn_request_never_starts() -> None:
    table = SlotTable(1, 100)
    table.add(submit(1))
    table.add(submit(2))
    assert start(table)[0] == 1
    assert table.withdraw(2)
    assert not table.withdraw(2)
    assert not table.withdraw(1), "it runs already"
    assert len(table) == 1


@given(
    actions=st.lists(st.tuples(st.booleans(), st.integers(1, 8), st.integers(1, 8)), max_size=40),
    slots=st.integers(1, 4),
)
def test_room_and_slots_are_never_overdrawn(
    actions: list[tuple[bool, int, int]], slots: int
) -> None:
    table, running, number = SlotTable(slots, 12), dict[int, tuple[int, int]](), 0
    for add, length, tokens in actions:
        if add:
            number += 1
            table.add(submit(number, (number,) * length, tokens))
        elif running:
            request = next(iter(running))
            del running[request]
            table.release(request, [])
        while (started := table.start()) is not None:
            request, slot, _ = started
            running[request.id] = (slot, len(request.ids) + request.max_tokens)
        taken = [slot for slot, _ in running.values()]
        assert len(set(taken)) == len(taken) <= slots
        assert len(running) == 1 or sum(cells for _, cells in running.values()) <= 12
    assert not len(table) or running, "somebody always runs while anybody waits"


IDS = st.lists(st.integers(0, 2), max_size=12).map(tuple)


@given(IDS, IDS)
def test_common_prefix(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    shared = common(left, right)
    assert left[:shared] == right[:shared]
    assert left[shared : shared + 1] != right[shared : shared + 1] or shared == min(
        len(left), len(right)
    )


def test_what_a_slot_still_holds_counts_until_it_is_overwritten() -> None:
    table = SlotTable(2, 100)
    table.add(submit(1, (1,) * 80))
    start(table)
    table.release(1, [])
    table.add(submit(2, (1, 5), 10))
    table.add(submit(3, (7,) * 20, 5))
    assert start(table)[0] == 2, "it runs on the slot that still holds 80 tokens"
    assert table.start() is None
